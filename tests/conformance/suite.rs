use crate::Run;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use weaver_tests::{Process, free_port, scratch, wait_for_port};

/// Where the suite is installed.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

struct Test {
    kind: String,
    depends_on: Vec<String>,
}

pub(crate) struct Suite(BTreeMap<String, Test>);

/// The suite's own origin.
pub(crate) struct SuiteOrigin {
    _process: Process,
    port: u16,
}

impl SuiteOrigin {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

const KINDS: [&str; 3] = ["required", "optimal", "check"];

impl Suite {
    pub(crate) fn load() -> Result<Self> {
        let output = Command::new("node")
            .args(["--no-warnings", "suite.mjs"])
            .current_dir(directory())
            .output()
            .context("cannot start node; tests/setup installs it")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let listed: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout)?;
        let test = |value: &Value| Test {
            kind: value["kind"].as_str().unwrap_or("required").to_owned(),
            depends_on: value["depends_on"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|id| id.as_str().map(str::to_owned))
                .collect(),
        };
        Ok(Self(
            listed
                .iter()
                .map(|(id, value)| (id.clone(), test(value)))
                .collect(),
        ))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn kind(&self, id: &str) -> &str {
        self.0.get(id).map_or("", |test| test.kind.as_str())
    }

    pub(crate) async fn start_origin(&self) -> Result<SuiteOrigin> {
        let (port, log) = (free_port(), scratch("suite"));
        let script = directory().join("node_modules/http-cache-tests/server/server.mjs");
        let pid = log.join("pid");
        let variables = [
            ("npm_config_port", port.to_string()),
            ("npm_config_protocol", "http".to_owned()),
            ("npm_config_pidfile", pid.display().to_string()),
        ];
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let arguments = ["--no-warnings", &script.display().to_string()];
        let process = Process::start_with("node", &arguments, &log, &variables)?;
        wait_for_port(port)
            .await
            .with_context(|| process.output())?;
        Ok(SuiteOrigin {
            _process: process,
            port,
        })
    }

    /// Runs every test through the cache on that port.
    pub(crate) async fn run(&self, port: u16) -> Result<Run> {
        let (log, script) = (
            scratch("suite"),
            directory().join("node_modules/http-cache-tests/cli.mjs"),
        );
        let base = format!("http://127.0.0.1:{port}");
        // The suite takes an empty id for all tests, and an absent one for the test of that name.
        let variables = [
            ("npm_config_base", base.as_str()),
            ("npm_config_id", ""),
            ("npm_package_config_id", ""),
        ];
        let arguments = ["--no-warnings", &script.display().to_string()];
        let mut process = Process::start_with("node", &arguments, &log, &variables)?;
        process.wait(Duration::from_secs(300)).await?;
        let output = process.output();
        let json = output.find('{').map_or("", |at| &output[at..]);
        let results: BTreeMap<String, Value> =
            serde_json::from_str(json).with_context(|| format!("the suite printed {output}"))?;
        let passes = |id: &str| results.get(id) == Some(&Value::Bool(true));
        let said = results
            .iter()
            .filter(|(_, result)| **result != Value::Bool(true))
            .map(|(id, result)| (id.clone(), result.to_string()))
            .collect();
        let outcomes = self
            .0
            .keys()
            .map(|id| (id.clone(), self.passes(id, &passes, 0)))
            .collect();
        Ok(Run { outcomes, said })
    }

    /// A test counts only where those that it depends on pass too.
    fn passes(&self, id: &str, passes: &impl Fn(&str) -> bool, depth: usize) -> bool {
        let Some(test) = self.0.get(id) else {
            return passes(id);
        };
        depth < 10
            && passes(id)
            && test
                .depends_on
                .iter()
                .all(|other| self.passes(other, passes, depth + 1))
    }

    pub(crate) fn heading(&self) -> String {
        let count = |kind: &str| self.0.values().filter(|test| test.kind == kind).count();
        let [required, optimal, check] = KINDS.map(count);
        format!(
            "{:<30} required/{required}  optimal/{optimal}  check/{check}",
            ""
        )
    }

    pub(crate) fn summary(&self, name: &str, outcomes: &BTreeMap<String, bool>) -> String {
        let count = |kind: &str| {
            let passed =
                |(id, test): (&String, &Test)| test.kind == kind && outcomes.get(id) == Some(&true);
            self.0.iter().filter(|pair| passed(*pair)).count()
        };
        let [required, optimal, check] = KINDS.map(count);
        format!("{name:<30} {required:>12}  {optimal:>10}  {check:>8}")
    }
}
