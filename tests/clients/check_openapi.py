"""Checks an OpenAPI description, given on standard input, by the specification's own schema."""

import json
import sys

from openapi_spec_validator import validate

description = json.load(sys.stdin)
validate(description)
paths = [f"{method} {path}" for path, item in description["paths"].items() for method in item]
print("\n".join(sorted(paths)))
