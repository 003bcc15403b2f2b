//! What the log says of an outage: a line when it begins, with the server and the cause, reminders at
//! growing distances while it lasts, and a line when it is over.
//!
//! Times are passed in. Whoever looks may look as often as it likes.

use crate::{RedisPoolConfig, Topology};
use std::time::{Duration, Instant};

/// Younger than this, an outage is not told of: a connection that comes back at once is none, and the
/// attempt to connect again tells more of the cause than the end of the old connection.
const SETTLED: Duration = Duration::from_millis(250);
/// From this age on it is told of although no cause is known.
const CAUSELESS: Duration = Duration::from_secs(1);
const FIRST_REMINDER: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// When an outage is told of.
#[derive(Debug, Default)]
pub struct OutageLog(Option<Outage>);

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// When it is told of again, and after which pause; `None` before the first time.
    reminder: Option<(Instant, Duration)>,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutageNews {
    /// It has begun.
    Began,
    /// It has lasted for so long.
    Lasts(Duration),
    /// It is over after so long.
    Over(Duration),
}

impl OutageLog {
    /// What is to be told of an outage that goes on; `explained` says whether its cause is known.
    pub fn lasts(&mut self, explained: bool, now: Instant) -> Option<OutageNews> {
        let outage = self.0.get_or_insert(Outage {
            since: now,
            reminder: None,
        });
        let age = now.saturating_duration_since(outage.since);
        match outage.reminder {
            None if age < SETTLED || (!explained && age < CAUSELESS) => None,
            None => {
                outage.reminder = Some((now + FIRST_REMINDER, FIRST_REMINDER));
                Some(OutageNews::Began)
            }
            Some((at, _)) if now < at => None,
            Some((_, pause)) => {
                let pause = (pause * 2).min(LONGEST);
                outage.reminder = Some((now + pause, pause));
                Some(OutageNews::Lasts(age))
            }
        }
    }

    /// What is to be told where all is well: the end of an outage that was told of.
    pub fn ends(&mut self, now: Instant) -> Option<OutageNews> {
        let outage = self.0.take()?;
        let age = now.saturating_duration_since(outage.since);
        outage.reminder.map(|_| OutageNews::Over(age))
    }
}

/// Where Redis is, as a person would name it.
pub(crate) fn address(config: &RedisPoolConfig) -> String {
    let list = |nodes: &[(String, u16)]| {
        let nodes = nodes.iter().map(|(host, port)| format!("{host}:{port}"));
        nodes.collect::<Vec<_>>().join(", ")
    };
    match &config.topology {
        Topology::Standalone => format!("{}:{}", config.host, config.port),
        Topology::Unix { path } => path.display().to_string(),
        Topology::Sentinel { nodes, service, .. } => {
            format!("{service} of the sentinels {}", list(nodes))
        }
        Topology::Cluster { nodes, .. } => format!("the cluster of {}", list(nodes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_of_when_it_begins_ever_more_rarely_and_when_it_ends() {
        let (mut log, start) = (OutageLog::default(), Instant::now());
        let mut told = Vec::new();
        for tenth in 0..36_000 {
            let now = start + Duration::from_millis(100) * tenth;
            if let Some(news) = log.lasts(true, now) {
                told.push(news);
            }
        }
        let ages = told.iter().filter_map(|news| match news {
            OutageNews::Lasts(age) => Some(age.as_secs()),
            _ => None,
        });
        let ages: Vec<u64> = ages.collect();
        assert_eq!(told[0], OutageNews::Began);
        assert_eq!(ages, [10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]);
        let end = log.ends(start + Duration::from_secs(3600));
        assert_eq!(end, Some(OutageNews::Over(Duration::from_secs(3600))));
        assert_eq!(log.ends(start + Duration::from_secs(3601)), None);
    }

    #[test]
    fn what_is_over_at_once_is_not_told_of() {
        let (mut log, start) = (OutageLog::default(), Instant::now());
        assert_eq!(log.lasts(true, start), None);
        assert_eq!(log.ends(start + Duration::from_millis(200)), None);
    }

    #[test]
    fn a_cause_is_waited_for_and_not_for_ever() {
        let (mut log, start) = (OutageLog::default(), Instant::now());
        assert_eq!(log.lasts(false, start), None);
        assert_eq!(log.lasts(false, start + SETTLED), None);
        let late = log.lasts(false, start + CAUSELESS);
        assert_eq!(late, Some(OutageNews::Began));
    }
}
