use std::time::Duration;

/// When the circuit breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// The share of calls in the window that fail, above 0 and up to 1, from which it opens. A call
    /// fails that gets no answer in time, has no connection, or meets a server in no state to run
    /// it; an error that is the command's own is none.
    pub failure_rate: f64,
    /// From how long on a call is slow.
    pub slow_call: Duration,
    /// The share of calls in the window that fail or are slow from which it opens.
    pub slow_call_rate: f64,
    /// The time that is looked back on.
    pub window: Duration,
    /// Calls in the window below which it never opens.
    pub min_calls: u32,
    /// How long calls are refused before probes are let through.
    pub open_for: Duration,
    /// Probes that must succeed, and of which no more are under way at once.
    pub probes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            failure_rate: 0.5,
            slow_call: Duration::from_secs(1),
            slow_call_rate: 0.8,
            window: Duration::from_secs(10),
            min_calls: 20,
            open_for: Duration::from_secs(1),
            probes: 3,
        }
    }
}
