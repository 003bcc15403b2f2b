//! `POST /purge`

use super::posted::Posted;
use crate::{config::duration, problem::problem, state::State};
use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use weaver_cache::{CacheHandle, Position, Purge, PurgeError, policy::url::UrlError};

/// What to purge: exactly one of the first four.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeRequest {
    url: Option<String>,
    tags: Option<Vec<String>>,
    prefix: Option<String>,
    all: Option<bool>,
    #[serde(default)]
    soft: bool,
}

/// Tags that one request may name.
pub(crate) const MAX_TAGS: usize = 100;

impl PurgeRequest {
    fn purges(self) -> Result<Vec<Purge>, String> {
        let purges = self.named()?;
        for (at, purge) in purges.iter().enumerate() {
            let which = |error| match purge {
                Purge::Tag(_) => format!("tags[{at}]: {error}"),
                _ => format!("{error}"),
            };
            purge.check().map_err(which)?;
        }
        Ok(purges)
    }

    fn named(self) -> Result<Vec<Purge>, String> {
        const ONE: &str = "exactly one of url, tags, prefix and all is needed";
        match (self.url, self.tags, self.prefix, self.all) {
            (Some(url), None, None, None) => Ok(vec![read("url", &url, Purge::url)?]),
            (None, Some(tags), None, None) => {
                if tags.is_empty() || tags.len() > MAX_TAGS {
                    let count = tags.len();
                    return Err(format!(
                        "tags has {count} items; it must have 1 to {MAX_TAGS}"
                    ));
                }
                if tags
                    .iter()
                    .any(|tag| tag.is_empty() || tag.contains([' ', ',', '\t']))
                {
                    return Err("a tag is not empty, and has neither space nor comma".to_owned());
                }
                Ok(tags.into_iter().map(Purge::Tag).collect())
            }
            (None, None, Some(prefix), None) => Ok(vec![read("prefix", &prefix, Purge::prefix)?]),
            (None, None, None, Some(true)) => Ok(vec![Purge::All]),
            _ => Err(ONE.to_owned()),
        }
    }
}

fn read(
    key: &str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<Purge, UrlError>,
) -> Result<Purge, String> {
    let (bytes, most) = (text.len(), Purge::MAX_URL);
    parse(text).map_err(|error| {
        if bytes > most {
            // It is not sent back.
            let what = if key == "url" { "URL" } else { key };
            return format!(
                "the {what} has {bytes} bytes; the longest that can be purged has {most}"
            );
        }
        format!("{key} {text:?}: {error}; it is a path such as /a or a URL such as http://host/a")
    })
}

/// The longest that a purge waits for the nodes.
const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// `applied`: answer once every live node has applied it.
    wait: Option<String>,
    /// For how long at most.
    timeout: Option<String>,
}

impl Options {
    /// How long to wait for the nodes; `None` is not at all.
    fn wait(&self) -> Result<Option<Duration>, String> {
        let timeout = match &self.timeout {
            Some(text) => duration(text)?,
            None => Duration::from_secs(5),
        };
        match self.wait.as_deref() {
            None => Ok(None),
            Some("applied") if timeout <= MAX_WAIT => Ok(Some(timeout)),
            Some("applied") => Err("timeout is at most 60s".to_owned()),
            Some(other) => Err(format!("wait={other:?} is not wait=applied")),
        }
    }
}

pub(super) async fn purge(
    state: web::Data<State>,
    options: web::Query<Options>,
    body: Posted,
) -> HttpResponse {
    let wait = match options.wait() {
        Ok(wait) => wait,
        Err(what) => return problem(StatusCode::BAD_REQUEST, &what),
    };
    let soft;
    let purges = match body.json::<PurgeRequest>().await {
        Ok(request) => {
            soft = request.soft;
            request.purges()
        }
        Err(refused) => return refused,
    };
    let purges = match purges {
        Ok(purges) => purges,
        Err(what) => return problem(StatusCode::BAD_REQUEST, &what),
    };
    let Some(cache) = state.cache() else {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cache is not running yet",
        );
    };
    let mut position = Position::default();
    let mut failed = None;
    for purge in purges {
        let done = if wait.is_some() {
            cache.purge_acknowledged(purge, soft).await
        } else {
            cache.purge(purge, soft).await
        };
        match done {
            Ok(at) => position = at,
            // The others hold in this node all the same.
            Err(PurgeError::LocalOnly(error)) => failed = Some(error),
            Err(error @ PurgeError::NotAUrl(_)) => {
                return problem(StatusCode::BAD_REQUEST, &error.to_string());
            }
            Err(PurgeError::Invalid(error)) => {
                return problem(StatusCode::BAD_REQUEST, &error.to_string());
            }
        }
    }
    if let Some(error) = failed {
        tracing::error!(%error, "a purge did not reach the journal");
        let what = "purged in this node only: the journal in Redis was not reached; this node \
                    tries again, and if it ends before, the others do not hear of it; send it \
                    again to be sure";
        return problem(StatusCode::SERVICE_UNAVAILABLE, what);
    }
    let mut answer = json!({ "position": position.to_string(), "soft": soft });
    if let Some(within) = wait
        && let Err(error) = report_nodes(&cache, position, within, &mut answer).await
    {
        tracing::error!(%error, "the nodes that applied a purge are not known");
        let what = format!(
            "the purge is in the journal at {position}; Redis was not reached again, so which \
             nodes have applied it is not known"
        );
        return problem(StatusCode::SERVICE_UNAVAILABLE, &what);
    }
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(answer)
}

/// Waits for the nodes, and says of each how far it is.
async fn report_nodes(
    cache: &CacheHandle,
    position: Position,
    within: Duration,
    answer: &mut Value,
) -> Result<(), weaver_pool::PoolError> {
    let nodes = cache.wait_until_applied(position, within).await?;
    let missing: Vec<_> = nodes
        .iter()
        .filter(|node| node.position < position)
        .map(|node| node.name.as_str())
        .collect();
    answer["applied"] = json!(missing.is_empty());
    answer["missing"] = json!(missing);
    let nodes = nodes.iter().map(|node| {
        json!({
            "name": node.name,
            "position": node.position.to_string(),
            "applied": node.position >= position,
            "live": node.is_live(),
            "seen_seconds_ago": node.seen.as_secs_f64(),
        })
    });
    answer["nodes"] = nodes.collect();
    Ok(())
}
