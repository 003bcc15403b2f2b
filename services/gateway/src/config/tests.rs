use super::*;
use std::time::Duration;

fn parse(text: &str) -> Result<Config, Faults> {
    Config::parse("weaver.toml", text, &Environment::default())
}

fn faults(text: &str, environment: &Environment) -> Vec<String> {
    Config::parse("weaver.toml", text, environment)
        .unwrap_err()
        .lines()
        .to_vec()
}

#[test]
fn an_empty_file_is_a_whole_configuration() {
    let config = parse("").unwrap();
    assert_eq!(config.server.listen.port(), 8000);
    assert!(config.redis.is_none());
    let patterns: Vec<_> = config
        .cache
        .cache_patterns
        .iter()
        .map(|p| (p.path.as_str().to_owned(), p.ttl, p.per_user))
        .collect();
    assert_eq!(
        patterns,
        [
            ("/health".to_owned(), 60, false),
            ("/metrics".to_owned(), 10, false),
            ("/whoami".to_owned(), 30, true)
        ]
    );
}

#[test]
fn every_fault_is_listed_with_its_key_and_its_line() {
    let text = "[server]\nlisten = \"nowhere\"\nworker = 2\n\n[redis]\nport = 70000\nsocket_timeout = \"5y\"\n\n[[routes]]\npath = \"api\"\nupstreams = [\"ftp://x\"]\n";
    let found = faults(text, &Environment::default());
    for wanted in [
        "server.listen: \"nowhere\" is not an address and port such as 0.0.0.0:8000 (weaver.toml:2)",
        "server.worker: is no key of Weaver's; is workers meant? (weaver.toml:3)",
        "redis.port: 70000 is not 1 to 65535 (weaver.toml:6)",
        "redis.socket_timeout: \"5y\" has no unit among ms, s, m, h, d (weaver.toml:7)",
        "routes[0].path: \"api\" is not the beginning of a path such as \"/api\" (weaver.toml:10)",
        "routes[0].upstreams: \"ftp://x\" is not a URL such as \"http://127.0.0.1:9000\" (weaver.toml:11)",
    ] {
        assert!(
            found.iter().any(|line| line == wanted),
            "{wanted}\nnot among {found:#?}"
        );
    }
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn what_an_upstream_is_given_at_once_is_learnt_unless_it_is_said() {
    let route = "[[routes]]\npath = \"/\"\nupstreams = [\"http://a\"]\n";
    let gate = |keys: &str| parse(&format!("{route}{keys}")).unwrap().routes[0].gate;
    let default = gate("");
    assert_eq!((default.max_in_flight, default.max_queue), (None, 64));
    assert_eq!(default.queue_timeout, Duration::from_millis(100));
    let given = gate("max_in_flight = 8\nmax_queue = 0\nqueue_timeout = \"1s\"");
    assert_eq!((given.max_in_flight, given.max_queue), (Some(8), 0));
    assert_eq!(given.queue_timeout, Duration::from_secs(1));
    let found = faults(
        &format!("{route}max_in_flight = -1\nqueue_timeout = 0"),
        &Environment::default(),
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("routes[0].max_in_flight: "),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("routes[0].queue_timeout: "),
        "{found:#?}"
    );
}

#[test]
fn the_environment_stands_over_the_file_and_is_named_in_faults() {
    let environment = Environment::with([
        ("WEAVER_CACHE__MEMORY", "1MiB"),
        ("WEAVER_REDIS__PASSWORD", "007"),
        ("REDIS_HOST", "cache.example"),
        ("CACHE_HEALTH_TTL", "5"),
    ]);
    let config = Config::parse("f", "[cache]\nmemory = \"2MiB\"", &environment).unwrap();
    assert_eq!(config.cache.memory, 1 << 20);
    let redis = config.redis.unwrap();
    assert_eq!(
        (redis.host.as_str(), redis.password.as_deref()),
        ("cache.example", Some("007"))
    );
    let health = config
        .cache
        .cache_patterns
        .iter()
        .find(|p| p.path.as_str() == "/health")
        .unwrap();
    assert_eq!(health.ttl, 5);

    let found = faults(
        "",
        &Environment::with([
            ("WEAVER_CACHE__MEMORI", "1"),
            ("WEAVER_SERVER__WORKERS", "x"),
        ]),
    );
    assert!(
        found[0].contains("server.workers") && found[0].contains("WEAVER_SERVER__WORKERS"),
        "{found:?}"
    );
    assert!(
        found[1].contains("cache.memori") && found[1].contains("is memory meant?"),
        "{found:?}"
    );
}

#[test]
fn what_kubernetes_sets_for_a_service_of_our_name_is_no_fault() {
    let environment = Environment::with([
        ("WEAVER_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("WEAVER_GATEWAY_SERVICE_PORT", "8000"),
        ("WEAVER_GATEWAY_SERVICE_PORT_HTTP", "8000"),
        ("WEAVER_GATEWAY_PORT", "tcp://10.0.0.1:8000"),
        ("WEAVER_GATEWAY_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("WEAVER_GATEWAY_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("WEAVER_PORT", "tcp://10.0.0.1:8000"),
    ]);
    Config::parse("f", "", &environment).unwrap();
    assert_eq!(
        faults("", &Environment::with([("WEAVER_NONSENSE", "1")])).len(),
        1
    );
}

#[test]
fn secrets_are_never_in_a_fault() {
    let text = "[auth]\nmode = \"api_key\"\napi_keys = [\"s3cr3t-without-user\"]\n[admin]\ntoken = \"s3cr3t\"\nx = 1\n[redis]\npassword = \"s3cr3t\"\nmode = \"clusta\"\n";
    let found = faults(text, &Environment::default()).join("\n");
    assert!(!found.contains("s3cr3t"), "{found}");
    assert_eq!(found.lines().count(), 3, "{found}");
    let config = parse("[admin]\ntoken = \"s3cr3t\"\n[auth]\nmode=\"api_key\"\napi_keys=[\"s3cr3t:u\"]\n[redis]\nmode=\"standalone\"\npassword=\"s3cr3t\"").unwrap();
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

#[test]
fn an_admin_port_that_others_reach_needs_a_token() {
    let found = faults(
        "[server]\nadmin_listen = \"0.0.0.0:8001\"",
        &Environment::default(),
    );
    assert!(found[0].starts_with("admin.token: is empty"), "{found:?}");
}

#[test]
fn patterns_take_numbers_texts_and_tables() {
    let config = parse(
        "[cache.patterns]\n\"/health\" = 0\n\"/a\" = \"5m\"\n\"/catalog/*\" = { ttl = \"5m\", override = true, ignore_query = true }\n",
    )
    .unwrap();
    let find = |path: &str| {
        config
            .cache
            .cache_patterns
            .iter()
            .find(|p| p.path.as_str() == path)
    };
    assert_eq!(find("/health").map(|found| found.ttl), Some(0));
    assert_eq!(find("/a").unwrap().ttl, 300);
    let catalog = find("/catalog/*").unwrap();
    assert!(catalog.overrides && catalog.query == Some(weaver_cache::QueryRule::Ignore));
}

#[test]
fn broken_toml_is_one_fault_with_its_place() {
    let found = faults("[server\nlisten=", &Environment::default());
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("weaver.toml:1: this is not TOML, at column 8"),
        "{found:?}"
    );
}

#[test]
fn no_fault_shows_a_secret() {
    for text in [
        "[admin]\ntoken = \"s3cret",
        "[admin]\ntoken = \"s3cret\\q\"",
        "[admin]\ntoken = s3cret",
        "[admin]\ntoken = \"a\"\ntoken = \"s3cret\"",
        "[admin]\ntoken = \"s3cret\0\"",
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://u:s3cret@\"]",
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://u:s3cret@h\"]",
        "[[routes]]\npath = \"/\"\nupstreams = [\"http://h/?k=s3cret\"]",
        "[warm]\nurls = [\"http://u:s3cret@h/\"]",
        "[telemetry]\notlp_endpoint = \"ht!tp://u:s3cret@h\"",
        "[[models]]\nupstreams = [\"http://h\"]\nkey_env = \"sk-s3cret\"",
    ] {
        let found = faults(text, &Environment::default()).concat();
        assert!(!found.is_empty() && !found.contains("s3cret"), "{found}");
    }
}

#[test]
fn an_empty_variable_takes_the_place_of_nothing() {
    let environment = Environment::with([("WEAVER_ADMIN__TOKEN", ""), ("REDIS_HOST", "")]);
    let config = Config::parse("f", "[admin]\ntoken = \"t0ken\"", &environment).unwrap();
    assert_eq!(config.admin.token, "t0ken");
    assert!(config.redis.is_none());
}

#[test]
fn both_ports_are_not_one() {
    let text = "[server]\nlisten = \"127.0.0.1:9\"\nadmin_listen = \"127.0.0.1:9\"\n";
    let found = faults(text, &Environment::default());
    assert!(found[0].starts_with("server.admin_listen: "), "{found:?}");
}

#[test]
fn durations_may_be_numbers_or_text() {
    let config =
        parse("[redis]\nmode = \"standalone\"\nsocket_timeout = 2.5\nmax_idle_time = \"1m\"")
            .unwrap();
    let redis = config.redis.unwrap();
    assert_eq!(redis.socket_timeout, Duration::from_millis(2500));
    assert_eq!(redis.max_idle_time, Duration::from_secs(60));
}

#[test]
fn the_ways_to_redis_are_configured_and_checked() {
    let redis = parse(
        "[redis]\nmode = \"sentinel\"\nnodes = [\"a:1\", \"b\"]\nsentinel_service = \"main\"\n\
         sentinel_password = \"s3cr3t\"\npassword_file = \"/run/password\"\nprotocol = \"resp3\"\n\
         tls = true\ntls_ca = \"ca.pem\"\ntls_cert = \"c.pem\"\ntls_key = \"k.pem\"\n",
    )
    .unwrap()
    .redis
    .unwrap();
    let weaver_pool::Topology::Sentinel { nodes, .. } = &redis.topology else {
        panic!("{:?}", redis.topology);
    };
    assert_eq!(nodes[1], ("b".to_owned(), 26_379));
    assert!(redis.credentials.is_some() && redis.protocol == weaver_pool::Protocol::Resp3);
    let tls = redis.tls.as_ref().unwrap();
    assert!(tls.ca.is_some() && tls.identity.is_some());
    assert!(!format!("{redis:?}").contains("s3cr3t"));

    let found = faults(
        "[redis]\nmode = \"cluster\"\nnodes = [\"a\"]\nunix_socket = \"/s\"\ntls_ca = \"ca.pem\"\n\
         tls_cert = \"c.pem\"\npassword = \"s3cr3t\"\npassword_file = \"f\"\n",
        &Environment::default(),
    );
    for key in [
        "redis.unix_socket",
        "redis.tls_ca",
        "redis.tls_cert",
        "redis.password_file",
    ] {
        assert!(
            found.iter().any(|fault| fault.starts_with(key)),
            "{key}: {found:?}"
        );
    }
}

#[test]
fn a_store_for_each_user_without_an_identity_is_warned_of() {
    let route =
        "[[routes]]\npath = \"/\"\nname = \"r\"\nupstreams = [\"http://h\"]\nper_user = true\n";
    let warned = parse(route).unwrap().warnings;
    assert!(
        warned.len() == 1 && warned[0].contains("route \"r\""),
        "{warned:?}"
    );
    let identity = parse(&format!("{route}identity = [\"cookie:s\"]\n")).unwrap();
    assert_eq!(identity.warnings, [""; 0]);
    let known = format!("[auth]\nmode = \"api_key\"\napi_keys = [\"k:u\"]\n{route}");
    assert_eq!(parse(&known).unwrap().warnings, [""; 0]);
}

#[test]
fn what_no_key_can_have_is_a_fault() {
    let text = "[server]\ntrusted_fields = [\"connection\"]\ntrusted_hosts = [\"a b\", \"a:80\"]\n\
                [[routes]]\npath = \"/a/../b\"\nupstreams = [\"http://h\"]\n\
                vary_on = [\"X-Forwarded-For\"]\nidentity = [\"session\"]\n";
    let found = faults(text, &Environment::default());
    for key in [
        "server.trusted_fields",
        "server.trusted_hosts",
        "routes[0].path",
        "routes[0].vary_on",
        "routes[0].identity",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(key)),
            "{key} not among {found:#?}"
        );
    }
}

#[test]
fn the_environment_can_have_tables_and_arrays() {
    let environment = Environment::with([
        ("WEAVER_CONFIG", "elsewhere.toml"),
        (
            "WEAVER_ROUTES",
            r#"[{ path = "/a", upstreams = ["http://h:1"] }, { path = "/b", upstreams = ["http://h:2"], ttl = 5 }]"#,
        ),
        (
            "WEAVER_CACHE__PATTERNS",
            r#"{ "/x/*" = 60, "/y" = { ttl = "5m" } }"#,
        ),
        ("WEAVER_SERVER__TRUSTED_HOSTS", r#"["a.test", "b.test"]"#),
        ("WEAVER_CACHE__IDENTITY_SECRET", "[not a list of TOML"),
    ]);
    let config = Config::parse("weaver.toml", "", &environment).unwrap();
    let paths: Vec<_> = config.routes.iter().map(|route| &*route.path).collect();
    assert_eq!(paths, ["/a", "/b"]);
    assert_eq!(config.server.trusted_hosts, ["a.test", "b.test"]);
    let has = |path| {
        let mut patterns = config.cache.cache_patterns.iter();
        patterns.any(|pattern| pattern.path.as_str() == path)
    };
    assert!(has("/x/*") && has("/y"));
    let environment = Environment::with([
        ("WEAVER_ROUTES", r#"[{ path = "a" }]"#),
        ("WEAVER_CACHE__PATTERNS", "{ secret"),
    ]);
    let found = faults("", &environment);
    for wanted in [
        "routes[0].path: \"a\" is not the beginning of a path such as \"/api\" (environment variable WEAVER_ROUTES)",
        "cache.patterns: is not TOML: it is an array such as [\"a\"] or a table such as { a = 1 } (environment variable WEAVER_CACHE__PATTERNS)",
    ] {
        assert!(
            found.iter().any(|line| line == wanted),
            "{wanted}\nnot among {found:#?}"
        );
    }
    assert!(!found.iter().any(|line| line.contains("secret")));
}

/// A value that stands in a file of its own while the test runs.
fn file_with(name: &str, text: &str) -> std::path::PathBuf {
    let name = format!("weaver-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn what_stands_around_a_secret_is_not_part_of_it() {
    let model = "[[models]]\nupstreams = [\"http://a\"]\nkey_env = \"SOME_KEY\"\n";
    let environment = Environment::with([
        ("SOME_KEY", "sk-1\n"),
        ("WEAVER_ADMIN__TOKEN", " t0ken\r\n"),
        ("WEAVER_AUTH__API_KEYS", "key-1:ann\n"),
        ("REDIS_PASSWORD", "se cret\n"),
        ("REDIS_HOST", "h"),
        ("WEAVER_CACHE__IDENTITY_SECRET", "0123456789abcdef\n"),
    ]);
    let text = format!("[auth]\nmode = \"api_key\"\n{model}");
    let config = Config::parse("f", &text, &environment).unwrap();
    assert_eq!(config.models[0].key, Some(ModelKey("sk-1".into())));
    assert_eq!(config.admin.token, "t0ken");
    let AuthMode::ApiKey(keys) = &config.auth.mode else {
        panic!("another mode");
    };
    assert_eq!((keys[0].key.as_str(), &*keys[0].user), ("key-1", "ann"));
    let redis = config.redis.unwrap();
    assert_eq!(redis.password.as_deref(), Some("se cret"));
    let plain = Environment::with([("WEAVER_CACHE__IDENTITY_SECRET", "0123456789abcdef")]);
    let plain = Config::parse("f", "", &plain).unwrap();
    assert_eq!(config.cache.identity_secret, plain.cache.identity_secret);
}

#[test]
fn a_secret_that_cannot_be_sent_is_a_fault_of_its_key_and_not_shown() {
    let model = "[[models]]\nupstreams = [\"http://a\"]\nkey_env = \"SOME_KEY\"\n";
    let text = format!("[auth]\nmode = \"api_key\"\n{model}");
    for bad in ["s3c\nret", "s3c\u{1}ret", "s3crét", "s3c\u{fffd}ret"] {
        let keys = format!("{bad}:ann");
        let environment = Environment::with([
            ("SOME_KEY", bad),
            ("WEAVER_ADMIN__TOKEN", bad),
            ("WEAVER_AUTH__API_KEYS", &keys),
        ]);
        let found = faults(&text, &environment);
        assert!(!found.concat().contains("s3c"), "{found:#?}");
        for key in ["admin.token: ", "auth.api_keys: ", "models[0].key_env: "] {
            let told = found.iter().any(|line| {
                line.starts_with(key) && line.contains("cannot be sent in a header field")
            });
            assert!(told, "{key} {found:#?}");
        }
    }
    for nothing in ["", " \n"] {
        let found = faults(&text, &Environment::with([("SOME_KEY", nothing)]));
        let told = "models[0].key_env: names SOME_KEY, which is not set, or empty (f";
        let told = found
            .iter()
            .any(|line| line.starts_with(&told[..told.len() - 2]));
        assert!(told, "{found:#?}");
    }
}

#[test]
fn the_admin_token_and_api_keys_may_stand_in_files() {
    let token = file_with("token", "t0ken\n");
    let lines = "# of operators\n\n key-1:ann:admin:read,write \r\n\t# more\nkey-2:ben\n";
    let keys = file_with("keys", lines);
    let text = format!(
        "[admin]\ntoken_file = {token:?}\n[auth]\nmode = \"api_key\"\napi_keys_file = {keys:?}\n\
         api_keys = [\"key-3:cem\"]\n[server]\nadmin_listen = \"0.0.0.0:1\"\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.admin.token, "t0ken");
    let AuthMode::ApiKey(read) = &config.auth.mode else {
        panic!("another mode");
    };
    let read: Vec<_> = read.iter().map(|key| (&*key.key, &*key.user)).collect();
    assert_eq!(read, [("key-3", "cem"), ("key-1", "ann"), ("key-2", "ben")]);

    std::fs::write(&token, "\n").unwrap();
    std::fs::write(&keys, "# none\ns3cret\nk\u{e9}y:ann\n").unwrap();
    let found = faults(&text, &Environment::default());
    let begins = [
        format!("admin.token_file: {token:?} is empty (weaver.toml:2)"),
        "auth.api_keys_file: line 2 has an entry that is not KEY:USER".to_owned(),
        "auth.api_keys_file: line 3 has an entry whose key has a control character".to_owned(),
    ];
    for (line, begin) in found.iter().zip(&begins) {
        assert!(line.starts_with(begin), "{line}");
    }
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(!found.concat().contains("s3cret"));
    for path in [&token, &keys] {
        std::fs::remove_file(path).unwrap();
    }
    let found = faults(&text, &Environment::default());
    assert!(found[0].starts_with("admin.token_file: "), "{found:#?}");
    assert!(found[1].starts_with("auth.api_keys_file: "), "{found:#?}");
    assert_eq!(found.len(), 2, "{found:#?}");
    let both = "[admin]\ntoken = \"a\"\ntoken_file = \"/no/such/file\"\n";
    let found = faults(both, &Environment::default());
    let told = "admin.token_file: cannot be combined with `token` (weaver.toml:3)";
    assert!(found.iter().any(|line| line == told), "{found:#?}");
}

#[test]
fn the_path_of_an_upstream_can_be_read_in_one_way_only() {
    let route = |url: &str| format!("[[routes]]\npath = \"/\"\nupstreams = [\"{url}\"]\n");
    let config = parse(&route("https://h:1/openai/v1/")).unwrap();
    let base = Destination::Upstreams(vec!["https://h:1/openai/v1".to_owned()]);
    assert_eq!(config.routes[0].to, base);
    for bad in [
        "http://h/a/../b",
        "http://h/%2e%2e",
        "http://h/a//b",
        "http://h/a;x",
        "http://h/%61",
        "http://h/a?q",
        "http://h/?",
        "http://h/a#f",
        "http://h/%zz",
    ] {
        for table in [route(bad), format!("[ask]\nupstream = \"{bad}\"\n")] {
            let found = faults(&table, &Environment::default());
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            assert!(found[0].contains("upstream"), "{found:?}");
        }
    }
}

#[test]
fn the_prefix_that_is_stripped_is_one_of_the_route() {
    let route = |strip: &str| {
        format!("[[routes]]\npath = \"/a/b\"\nupstreams = [\"http://h\"]\nstrip_prefix = {strip}\n")
    };
    for (strip, expected) in [
        ("true", Some("/a/b")),
        ("false", None),
        ("\"/a\"", Some("/a")),
        ("\"/a/b\"", Some("/a/b")),
    ] {
        let config = parse(&route(strip)).unwrap();
        assert_eq!(config.routes[0].strip_prefix.as_deref(), expected);
    }
    for bad in ["\"/b\"", "\"/a/b/c\"", "\"a\"", "\"/a/bc\"", "\"\""] {
        let found = faults(&route(bad), &Environment::default());
        assert!(
            found[0].starts_with("routes[0].strip_prefix: "),
            "{found:?}"
        );
    }
}

#[test]
fn redis_trusts_whom_upstreams_trust_unless_it_says_whom() {
    let issued = rcgen::generate_simple_self_signed(vec!["h".to_owned()]).unwrap();
    let file = std::env::temp_dir().join(format!("weaver-ca-{}.crt", std::process::id()));
    std::fs::write(&file, issued.cert.pem()).unwrap();
    let redis = |more: &str| {
        let text = format!(
            "[upstream_tls]\nca = {file:?}\n[redis]\nmode = \"standalone\"\ntls = true\n{more}"
        );
        parse(&text).unwrap().redis.unwrap().tls.unwrap().ca
    };
    let (shared, own) = (redis(""), redis("tls_ca = \"/own.crt\""));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(shared, Some(file));
    assert_eq!(own, Some("/own.crt".into()));
}
