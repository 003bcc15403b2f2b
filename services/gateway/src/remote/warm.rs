//! `weaver-gateway warm`: gathers URLs, gives them to a gateway in portions, and shows how far it is.

use super::{Admin, fetch, get, post};
use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use quick_xml::{Reader, events::Event};
use serde_json::json;
use std::{collections::HashMap, fs, path::PathBuf, time::Duration};
use tokio::time::sleep;

/// URLs given to the gateway at once.
const PORTION: usize = 1000;
/// URLs that are gathered at most.
const MAX_URLS: usize = 1_000_000;
/// Sitemaps that an index leads to at most.
const MAX_SITEMAPS: usize = 1000;

/// Fetch URLs into the cache ahead of their use.
#[derive(Debug, clap::Args)]
pub(crate) struct Warm {
    #[command(flatten)]
    admin: Admin,
    /// URLs with their hosts; what begins with / gets --host
    urls: Vec<String>,
    /// A file with a URL in each line
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// A sitemap, or an index of sitemaps
    #[arg(long, value_name = "URL")]
    sitemap: Vec<String>,
    /// An access log in the common or combined format, for the most used of its URLs
    #[arg(long, value_name = "FILE")]
    access_log: Vec<PathBuf>,
    /// The URLs that were asked for most, by what the gateways themselves have counted
    #[arg(long, value_name = "COUNT")]
    hottest: Option<usize>,
    /// How many of the access log's
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    top: usize,
    /// The host of URLs without one, such as those of access logs
    #[arg(long)]
    host: Option<String>,
    /// Requests a second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// A header of each request, such as "Authorization: Bearer ..."
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// Remember here how far it is, and go on from there
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

/// Returns whether every URL could be fetched.
pub(crate) async fn run(warm: &Warm) -> anyhow::Result<bool> {
    let urls = gather(warm).await?;
    if urls.is_empty() {
        bail!("there is nothing to warm: give URLs, --file, --sitemap, --access-log or --hottest");
    }
    let mark = Mark::of(warm.resume.clone(), &urls)?;
    let bar = ProgressBar::new(urls.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} {per_sec} {eta} {msg}",
    )?);
    bar.set_position(mark.done as u64);
    let mut failed = 0;
    let mut done = mark.done;
    for portion in urls[mark.done..].chunks(PORTION) {
        let order = json!({ "urls": portion, "rate": warm.rate, "headers": warm.header });
        let begun = post(&warm.admin, "/warm", &order).await?;
        let path = format!("/warm/{}", begun["job"]);
        loop {
            let report = get(&warm.admin, &path).await?;
            let now = failed + report["failed"].as_u64().unwrap_or(0);
            bar.set_position(done as u64 + report["done"].as_u64().unwrap_or(0));
            bar.set_message(match report["last_problem"].as_str() {
                Some(problem) => format!("{now} failed, the last {problem}"),
                None => String::new(),
            });
            if report["ended"] == true {
                failed = now;
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        done += portion.len();
        mark.set(done)?;
    }
    let last = bar.message();
    bar.finish_and_clear();
    println!("{}", json!({ "total": urls.len(), "failed": failed }));
    if failed > 0 {
        eprintln!("weaver-gateway: {last}");
    }
    Ok(failed == 0)
}

async fn gather(warm: &Warm) -> anyhow::Result<Vec<String>> {
    let mut urls = Vec::new();
    for url in &warm.urls {
        urls.push(with_host(url, warm.host.as_deref())?);
    }
    for file in &warm.file {
        let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        for line in text.lines().map(str::trim) {
            if !line.is_empty() && !line.starts_with('#') {
                urls.push(with_host(line, warm.host.as_deref())?);
            }
        }
    }
    for sitemap in &warm.sitemap {
        let (pages, more) = locations(&fetch(sitemap).await?)
            .with_context(|| format!("{sitemap} is no sitemap"))?;
        urls.extend(pages);
        for sitemap in more.iter().take(MAX_SITEMAPS) {
            let (pages, _) = locations(&fetch(sitemap).await?)
                .with_context(|| format!("{sitemap} is no sitemap"))?;
            urls.extend(pages);
        }
    }
    if let Some(most) = warm.hottest {
        let answer = get(&warm.admin, &format!("/hottest?limit={most}")).await?;
        let hottest = answer["urls"].as_array().into_iter().flatten();
        urls.extend(hottest.filter_map(|hot| Some(hot["url"].as_str()?.to_owned())));
    }
    for log in &warm.access_log {
        let file = fs::File::open(log).with_context(|| format!("{}", log.display()))?;
        for path in most_used(std::io::BufReader::new(file), warm.top)? {
            urls.push(with_host(&path, warm.host.as_deref())?);
        }
    }
    if urls.len() > MAX_URLS {
        bail!("{} URLs are more than {MAX_URLS}", urls.len());
    }
    Ok(urls)
}

fn with_host(url: &str, host: Option<&str>) -> anyhow::Result<String> {
    match (url.starts_with('/'), host) {
        (false, _) => Ok(url.to_owned()),
        (true, Some(host)) => Ok(format!("http://{host}{url}")),
        (true, None) => bail!("{url:?} has no host; give --host"),
    }
}

/// What a sitemap lists: pages, and further sitemaps (sitemaps.org protocol).
fn locations(xml: &[u8]) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let (mut pages, mut sitemaps) = (Vec::new(), Vec::new());
    let mut reader = Reader::from_reader(xml);
    let (mut buffer, mut in_index, mut text) = (Vec::new(), false, None);
    loop {
        match reader.read_event_into(&mut buffer)? {
            Event::Start(tag) => match tag.local_name().as_ref() {
                "sitemapindex" => in_index = true,
                "loc" => text = Some(String::new()),
                _ => {}
            },
            Event::Text(part) => {
                if let Some(text) = &mut text {
                    text.push_str(&part);
                }
            }
            Event::GeneralRef(part) => {
                let part = match &*part {
                    "amp" => '&',
                    "lt" => '<',
                    "gt" => '>',
                    "quot" => '"',
                    "apos" => '\'',
                    other => bail!("&{other}; is not known"),
                };
                if let Some(text) = &mut text {
                    text.push(part);
                }
            }
            Event::End(tag) if tag.local_name().as_ref() == "loc" => {
                let found = if in_index { &mut sitemaps } else { &mut pages };
                found.extend(text.take().map(|text| text.trim().to_owned()));
            }
            Event::Eof => return Ok((pages, sitemaps)),
            _ => {}
        }
        buffer.clear();
    }
}

/// The targets of GETs that succeeded, the most used first.
fn most_used(log: impl std::io::BufRead, top: usize) -> anyhow::Result<Vec<String>> {
    let mut uses: HashMap<String, u64> = HashMap::new();
    for line in log.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let mut parts = line.split('"').skip(1);
        let (request, rest) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let status = rest.split_whitespace().next().unwrap_or("");
        let Some(target) = request
            .strip_prefix("GET ")
            .and_then(|rest| rest.split(' ').next())
            .filter(|target| target.starts_with('/') && matches!(status, "200" | "304"))
        else {
            continue;
        };
        if let Some(count) = uses.get_mut(target) {
            *count += 1;
        } else if uses.len() < MAX_URLS {
            uses.insert(target.to_owned(), 1);
        }
    }
    let mut uses: Vec<_> = uses.into_iter().collect();
    uses.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    Ok(uses
        .into_iter()
        .take(top)
        .map(|(target, _)| target)
        .collect())
}

/// How far an interrupted run came, for just this list.
struct Mark {
    file: Option<PathBuf>,
    list: String,
    done: usize,
}

impl Mark {
    fn of(file: Option<PathBuf>, urls: &[String]) -> anyhow::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        for url in urls {
            hasher.update(url.as_bytes()).update(b"\n");
        }
        let list = hasher.finalize().to_hex().to_string();
        let text = match &file {
            Some(path) if path.exists() => {
                fs::read_to_string(path).with_context(|| format!("{}", path.display()))?
            }
            _ => String::new(),
        };
        let known = text.trim().split_once(' ').filter(|(of, _)| *of == list);
        let done = known.and_then(|(_, done)| done.parse().ok()).unwrap_or(0);
        Ok(Self {
            file,
            done: done.min(urls.len()),
            list,
        })
    }

    fn set(&self, done: usize) -> anyhow::Result<()> {
        match &self.file {
            Some(path) => fs::write(path, format!("{} {done}\n", self.list))
                .with_context(|| format!("{}", path.display())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sitemap_lists_pages_and_an_index_sitemaps() {
        let pages =
            b"<?xml version='1.0'?><urlset xmlns='http://www.sitemaps.org/schemas/sitemap/0.9'>
            <url><loc> http://h/a?b=1&amp;c=2 </loc><lastmod>2026</lastmod></url>
            <url><loc>http://h/d</loc></url></urlset>";
        let (found, more) = locations(pages).unwrap();
        assert_eq!(found, ["http://h/a?b=1&c=2", "http://h/d"]);
        assert!(more.is_empty());
        let index = b"<sitemapindex><sitemap><loc>http://h/1.xml</loc></sitemap></sitemapindex>";
        assert_eq!(locations(index).unwrap().1, ["http://h/1.xml"]);
        assert!(locations(b"<urlset><url><loc>x</url>").is_err());
    }

    #[test]
    fn the_most_used_of_a_log_come_first() {
        let log = b"1.2.3.4 - - [x] \"GET /a HTTP/1.1\" 200 5 \"-\" \"agent\"
1.2.3.4 - - [x] \"GET /b HTTP/1.1\" 304 5
1.2.3.4 - - [x] \"GET /b HTTP/1.1\" 200 5
1.2.3.4 - - [x] \"POST /c HTTP/1.1\" 200 5
1.2.3.4 - - [x] \"GET /d HTTP/1.1\" 500 5
\xff \"
";
        assert_eq!(most_used(&log[..], 10).unwrap(), ["/b", "/a"]);
        assert_eq!(most_used(&log[..], 1).unwrap(), ["/b"]);
    }
}
