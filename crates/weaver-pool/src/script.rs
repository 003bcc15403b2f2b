//! Lua scripts, sent once and then called by their hash.

use crate::{PoolError, RedisPool};
use fred::{
    error::Error as RedisError,
    interfaces::LuaInterface,
    types::{FromValue, Key, MultipleKeys, Value, scripts::Script as Hashed},
};

/// A Lua script.
#[derive(Clone, Debug)]
pub struct Script(Hashed);

impl Script {
    /// A script of that source.
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self(Hashed::from_lua(source))
    }

    /// The SHA-1 of its source, in hex, under which a server knows it.
    #[must_use]
    pub fn sha1(&self) -> &str {
        self.0.sha1()
    }
}

impl RedisPool {
    /// Runs a script: by its hash, and by its source where the server does not know it (yet, or any
    /// more: it was restarted or is another).
    ///
    /// In a cluster all keys must be in one slot. It is never sent a second time once it may have
    /// run.
    ///
    /// # Errors
    ///
    /// As [`RedisPool::execute`].
    pub async fn run_script<T, K, A>(
        &self,
        script: &Script,
        keys: Vec<K>,
        arguments: Vec<A>,
    ) -> Result<T, PoolError>
    where
        T: FromValue,
        K: Into<Key>,
        A: Into<Value>,
    {
        let keys: Vec<Key> = keys.into_iter().map(Into::into).collect();
        let arguments: Vec<Value> = arguments.into_iter().map(Into::into).collect();
        let first = keys.first().map(|key| key.as_bytes().to_vec());
        let mut call = self.command("EVALSHA");
        if let Some(key) = &first {
            call = call.key(key);
        }
        call.run(|client| {
            let (keys, arguments) = (
                MultipleKeys::from(keys.clone()),
                Value::Array(arguments.clone()),
            );
            async move {
                let hash = script.sha1();
                match client.evalsha(hash, keys.clone(), arguments.clone()).await {
                    Err(error) if is_unknown(&error) => {
                        let source = script.0.lua().cloned().unwrap_or_default();
                        client.eval(source, keys, arguments).await
                    }
                    outcome => outcome,
                }
            }
        })
        .await
    }
}

fn is_unknown(error: &RedisError) -> bool {
    error.details().starts_with("NOSCRIPT")
}
