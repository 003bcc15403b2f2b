use anyhow::Result;
use std::process::{Command, Output};
use weaver_tests::{Gateway, scratch};

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
    Ok(Command::new(Gateway::program()?)
        .args(arguments)
        .envs(variables.iter().copied())
        .output()?)
}

#[test]
fn help_and_version_go_to_standard_output() -> Result<()> {
    for argument in ["--help", "--version"] {
        let output = run(&[argument], &[])?;
        assert!(output.status.success());
        assert!(
            String::from_utf8(output.stdout)?.contains("weaver-gateway"),
            "{argument}"
        );
    }
    assert_eq!(run(&["no-such-command"], &[])?.status.code(), Some(64));
    Ok(())
}

#[test]
fn a_configuration_with_three_faults_ends_with_64_and_lists_three() -> Result<()> {
    let file = scratch("cli").join("weaver.toml");
    std::fs::write(
        &file,
        "[server]\nlisten = 7\n[redis]\npassword = \"s3cr3t\"\nhots = \"x\"\n",
    )?;
    let file = file.display().to_string();
    for command in ["check", "serve"] {
        let output = run(
            &[command, "--config", &file],
            &[("WEAVER_CACHE__MEMORY", "much")],
        )?;
        assert_eq!(output.status.code(), Some(64));
        let message = String::from_utf8(output.stderr)?;
        assert!(message.contains("3 faults"), "{message}");
        for wanted in [
            "server.listen",
            ":2)",
            "redis.hots",
            "is host meant?",
            "cache.memory",
            "WEAVER_CACHE__MEMORY",
        ] {
            assert!(message.contains(wanted), "{wanted} not in {message}");
        }
        assert!(!message.contains("s3cr3t"), "{message}");
    }
    Ok(())
}

#[test]
fn a_valid_configuration_checks_out_and_a_missing_file_is_named() -> Result<()> {
    let file = scratch("cli").join("weaver.toml");
    std::fs::write(
        &file,
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:9\"]\n",
    )?;
    let output = run(&["check", "--config", &file.display().to_string()], &[])?;
    assert!(output.status.success(), "{output:?}");
    let output = run(&["check", "--config", "/no/such/file.toml"], &[])?;
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr)?.contains("/no/such/file.toml"));
    Ok(())
}

#[test]
fn the_environment_names_the_file_and_can_have_the_routes() -> Result<()> {
    let file = scratch("cli").join("weaver.toml");
    std::fs::write(&file, "[server]\nlisten = 7\n")?;
    let file = file.display().to_string();
    let output = run(&["check"], &[("WEAVER_CONFIG", &file)])?;
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr)?.contains("weaver.toml:2"));
    let routes =
        "[{ path = '/', upstreams = ['http://h'] }, { path = '/a', upstreams = ['http://h'] }]";
    let output = run(&["check"], &[("WEAVER_ROUTES", routes)])?;
    let said = String::from_utf8(output.stdout)?;
    assert!(said.contains("2 routes"), "{said}");
    Ok(())
}
