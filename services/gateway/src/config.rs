//! The configuration: one TOML file, then environment variables over it.
//!
//! Loading reads everything before it judges anything, and [`Faults`] lists every unknown key and
//! every invalid value at once, each with its key and where it stands. The types here are what the
//! gateway runs with: nothing in them needs checking again.

mod read;
mod secret;
mod sections;
mod source;
mod values;

pub(crate) use secret::trim as trim_secret;
pub(crate) use sections::routes_origin;
pub use sections::{
    AccessLogFormat, AdminConfig, AgentAllow, AmbiguousPaths, ApiKey, AskConfig, AuthConfig,
    AuthMode, CorsConfig, Destination, GateConfig, HalfClose, HealthCheckConfig, JwtConfig, JwtKey,
    LogFormat, ModelKey, ModelLimitsConfig, ModelRouteConfig, RateLimitConfig, RouteCache,
    RouteConfig, SecurityHeaders, ServerConfig, TelemetryConfig, UpstreamTls, WarmConfig,
};
pub(crate) use source::CONFIG as CONFIG_VARIABLE;
pub use source::{Environment, Faults};
pub(crate) use values::{duration, shown};

use std::{path::Path, time::Duration};
use weaver_cache::CacheConfig;
use weaver_model_cache::ModelCacheConfig;
use weaver_pool::RedisPoolConfig;
use weaver_registry::RegistryConfig;

/// Everything the gateway is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`
    pub server: ServerConfig,
    /// `[cors]`
    pub cors: CorsConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[rate_limit]`
    pub rate_limit: RateLimitConfig,
    /// `[redis]`; `None` where its mode is off.
    pub redis: Option<RedisPoolConfig>,
    /// `redis.ready_timeout`: how long a node that starts waits for Redis before it is ready
    /// without.
    pub redis_ready_timeout: Duration,
    /// `[cache]`
    pub cache: CacheConfig,
    /// `[warm]`
    pub warm: WarmConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[ask]`
    pub ask: AskConfig,
    /// `[[models]]`, in the order in which they are looked at.
    pub models: Vec<ModelRouteConfig>,
    /// `[model_cache]`; `None` where it is off.
    pub model_cache: Option<ModelCacheConfig>,
    /// `[model_limits]`
    pub model_limits: ModelLimitsConfig,
    /// `[agents]`
    pub agents: RegistryConfig,
    /// `agents.allow`
    pub agent_allow: AgentAllow,
    /// `[upstream_tls]`
    pub upstream_tls: UpstreamTls,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[[routes]]`, the longest path first.
    pub routes: Vec<RouteConfig>,
    /// What is allowed, and hardly meant: one sentence each.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads a file, if one is given, and the environment.
    ///
    /// # Errors
    ///
    /// Every fault there is; without a secret's value.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, Faults> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Faults::one(format!("{}: {error}", path.display())))?,
            None => String::new(),
        };
        let name = file.map_or_else(
            || "configuration".to_owned(),
            |path| path.display().to_string(),
        );
        Self::parse(&name, &text, environment)
    }

    /// Reads TOML text that came from `name`, and the environment.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(name: &str, text: &str, environment: &Environment) -> Result<Self, Faults> {
        let source = source::Source::new(name, text, environment)?;
        let mut root = source.root();
        let config = sections::read(&mut root);
        root.finish();
        source.outcome(config)
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
