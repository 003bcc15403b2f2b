//! `[warm]`

use super::Section;
use http::{HeaderMap, Uri};
use std::{fmt, time::Duration};

/// `[warm]`: what is fetched on start, before the gateway is ready.
#[derive(Clone)]
pub struct WarmConfig {
    /// How many of the URLs that were hottest before.
    pub hottest: usize,
    /// URLs with their hosts.
    pub urls: Vec<Uri>,
    /// Headers of the requests.
    pub headers: HeaderMap,
    /// Requests a second.
    pub rate: u32,
    /// The gateway is ready after this long, warm or not.
    pub timeout: Duration,
}

impl WarmConfig {
    /// Whether there is anything to be done.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.hottest > 0 || !self.urls.is_empty()
    }
}

impl fmt::Debug for WarmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The headers may be credentials.
        f.debug_struct("WarmConfig")
            .field("hottest", &self.hottest)
            .field("urls", &self.urls.len())
            .finish_non_exhaustive()
    }
}

pub(super) fn read(mut section: Section<'_>) -> WarmConfig {
    let lines = section.parsed_list("headers", |line| {
        let (name, value) = crate::warm::header_line(line)?;
        let name = http::HeaderName::try_from(name).map_err(|error| error.to_string())?;
        let value = http::HeaderValue::try_from(value).map_err(|error| error.to_string())?;
        Ok((name, value))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in lines.unwrap_or_default() {
        headers.append(name, value);
    }
    let most = crate::warm::MAX_URLS;
    let urls = section
        .parsed_list("urls", crate::warm::url)
        .unwrap_or_default();
    if urls.len() > most {
        section.fault("urls", &format!("has more than {most} items"));
    }
    let config = WarmConfig {
        hottest: section.number("hottest", 0, 0..=most),
        rate: section.number("rate", 500, 1..=100_000),
        timeout: section.duration("timeout", Duration::from_secs(30), Duration::from_millis(1)),
        urls,
        headers,
    };
    section.finish();
    config
}
