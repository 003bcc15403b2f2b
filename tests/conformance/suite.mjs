// Prints what the suite asks: for each test that is not for browsers only, its kind and the tests
// that it depends on.
import suites from 'http-cache-tests/tests/index.mjs'

const tests = {}
for (const suite of suites) {
  for (const test of suite.tests) {
    if (test.browser_only) continue
    tests[test.id] = { kind: test.kind ?? 'required', depends_on: test.depends_on ?? [] }
  }
}
console.log(JSON.stringify(tests))
