//! Other caches, configured to cache what the standards let them and to leave the rest as it comes.

use anyhow::{Result, bail};
use std::path::Path;
use weaver_tests::{Nginx, Process, free_port, scratch, wait_for_port};

pub(crate) const NAMES: [&str; 5] = ["nginx", "varnish", "haproxy", "squid", "trafficserver"];

pub(crate) enum Peer {
    Nginx(Nginx),
    Other(
        #[allow(dead_code, reason = "held for its end")] Process,
        u16,
    ),
}

impl Peer {
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Nginx(nginx) => nginx.port(),
            Self::Other(_, port) => *port,
        }
    }
}

pub(crate) async fn start(name: &str, origin: u16) -> Result<Peer> {
    let (port, directory) = (free_port(), scratch(name));
    let dir = directory.display().to_string();
    std::fs::set_permissions(
        &directory,
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )?;
    let process = match name {
        "nginx" => return nginx(origin).await,
        "varnish" => {
            let (listen, backend) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{origin}"));
            let arguments = [
                "-F",
                "-a",
                &listen,
                "-b",
                &backend,
                "-n",
                &dir,
                "-s",
                "malloc,64m",
            ];
            Process::start(found(&["/usr/sbin/varnishd"])?, &arguments, &directory)?
        }
        "haproxy" => {
            let text = format!(
                "global\n maxconn 2000\ndefaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
                 cache c\n total-max-size 64\n max-object-size 100000\n max-age 100000\n process-vary on\n\
                 frontend f\n bind 127.0.0.1:{port}\n http-request cache-use c\n http-response cache-store c\n default_backend b\n\
                 backend b\n server s 127.0.0.1:{origin}\n"
            );
            let file = write(&directory, "haproxy.cfg", &text)?;
            Process::start(found(&["/usr/sbin/haproxy"])?, &["-f", &file], &directory)?
        }
        "squid" => {
            let text = format!(
                "http_port 127.0.0.1:{port} accel defaultsite=127.0.0.1 no-vhost\n\
                 cache_peer 127.0.0.1 parent {origin} 0 no-query originserver name=o\n\
                 http_access allow all\ncache_peer_access o allow all\nnever_direct allow all\n\
                 cache_mem 64 MB\nmemory_cache_mode always\naccess_log none\ncache_log {dir}/cache.log\n\
                 pid_filename {dir}/pid\ncoredump_dir {dir}\nvisible_hostname squid\nshutdown_lifetime 0 seconds\n\
                 pinger_enable off\n"
            );
            let file = write(&directory, "squid.conf", &text)?;
            Process::start(
                found(&["/usr/sbin/squid"])?,
                &["-N", "-f", &file],
                &directory,
            )?
        }
        "trafficserver" => {
            let root = traffic_server_root(&directory, port, origin)?;
            let runroot = format!("{root}/runroot.yaml");
            let variables = [("TS_RUNROOT", runroot.as_str())];
            let program = found(&["/usr/bin/traffic_server"])?;
            Process::start_with(program, &[], &directory, &variables)?
        }
        _ => bail!("nobody knows {name}"),
    };
    if let Err(error) = wait_for_port(port).await {
        bail!("{error}: {}", process.output().lines().last().unwrap_or(""));
    }
    Ok(Peer::Other(process, port))
}

async fn nginx(origin: u16) -> Result<Peer> {
    let http = "proxy_cache_path {dir}/cache keys_zone=c:10m inactive=60m;";
    let server = format!(
        "location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_http_version 1.1; proxy_cache c;\n\
         proxy_cache_revalidate on; proxy_cache_use_stale error timeout http_500 http_502 http_503 http_504;\n\
         proxy_cache_methods GET HEAD; add_header Age $upstream_cache_age always; }}"
    );
    // Debian's nginx has no $upstream_cache_age; without it there is no Age.
    let server = server.replace("add_header Age $upstream_cache_age always;", "");
    Ok(Peer::Nginx(Nginx::start_with(http, &server, None).await?))
}

/// A layout of its own for Traffic Server, which takes everything from files below one root.
fn traffic_server_root(directory: &Path, port: u16, origin: u16) -> Result<String> {
    let layout = ["etc", "var/run", "var/log", "var/cache"];
    for folder in layout {
        std::fs::create_dir_all(directory.join(folder))?;
        std::fs::set_permissions(
            directory.join(folder),
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )?;
    }
    let root = directory.display().to_string();
    let runroot = format!(
        "prefix: {root}\nexec_prefix: /usr\nbindir: /usr/bin\nsbindir: /usr/sbin\nsysconfdir: {root}/etc\n\
         datadir: {root}/var\nincludedir: /usr/include\nlibdir: /usr/lib\nlibexecdir: /usr/lib/trafficserver/modules\n\
         localstatedir: {root}/var\nruntimedir: {root}/var/run\nlogdir: {root}/var/log\ncachedir: {root}/var/cache\n"
    );
    write(directory, "runroot.yaml", &runroot)?;
    for entry in std::fs::read_dir("/etc/trafficserver")? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            std::fs::copy(&path, directory.join("etc").join(name))?;
        }
    }
    let etc = directory.join("etc");
    let own = format!(
        "\nCONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1\n\
         CONFIG proxy.config.http.cache.required_headers INT 0\n\
         CONFIG proxy.config.http.negative_caching_enabled INT 0\n\
         CONFIG proxy.config.url_remap.pristine_host_hdr INT 1\n\
         CONFIG proxy.config.admin.user_id STRING #-1\n"
    );
    let records = std::fs::read_to_string(etc.join("records.config")).unwrap_or_default() + &own;
    write(&etc, "records.config", &records)?;
    write(
        &etc,
        "remap.config",
        &format!("map / http://127.0.0.1:{origin}/\n"),
    )?;
    write(&etc, "storage.config", "var/cache 64M\n")?;
    Ok(root)
}

fn found(candidates: &[&'static str]) -> Result<&'static str> {
    let installed = candidates.iter().find(|path| Path::new(path).exists());
    match installed {
        Some(path) => Ok(path),
        None => bail!("{} is not installed", candidates.join(", ")),
    }
}

fn write(directory: &Path, name: &str, text: &str) -> Result<String> {
    let path = directory.join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}
