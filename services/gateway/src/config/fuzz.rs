//! Configurations that nobody wrote: each is read, or its faults are told.

use super::{Config, Environment};
use weaver_fuzz::changed;

#[test]
fn a_configuration_is_read_or_its_faults_are_told() {
    const SEEDS: [&[u8]; 3] = [
        b"[server]\nlisten = \"127.0.0.1:80\"\ntrusted_hosts = [\"a.b\", \"*.c\"]\ntrusted_proxies = [\"10.0.0.0/8\"]\n\
          max_head = \"32KiB\"\n[[routes]]\npath = \"/a\"\nupstreams = [\"http://h:1\"]\nttl = \"5m\"\n",
        b"[cache.patterns]\n\"/catalog/*\" = { ttl = \"5m\", override = true, identity = [\"cookie:s\"] }\n\
          \"/x\" = 60\n[auth]\nmode = \"api_key\"\napi_keys = [\"secret-key:user:a,b:c\"]\n",
        b"[redis]\nmode = \"cluster\"\nnodes = [\"a:1\", \"b:2\"]\nsocket_timeout = 5.0\n[[models]]\nmodels = [\"m*\"]\n\
          upstreams = [\"https://h\"]\n[model_cache.classes.x]\nphrases = [\"y\"]\nttl = 1\n",
    ];
    bolero::check!().for_each(|input: &[u8]| {
        let text = changed(&SEEDS, input);
        let Ok(text) = std::str::from_utf8(&text) else {
            return;
        };
        if let Err(faults) = Config::parse("weaver.toml", text, &Environment::default()) {
            assert!(!faults.lines().is_empty());
        }
    });
}
