//! Web cache deception: one path for the cache's rules and another for the origin.

use crate::{ask, body, field, get, is_hit};
use anyhow::Result;
use weaver_tests::{Gateway, Nginx};

/// An nginx that knows an account, whose page is its visitor's, and static files, which are
/// everybody's; and a gateway that keeps the one for each user and the other for all.
async fn site(server: &str) -> Result<(Nginx, Gateway)> {
    let nginx = Nginx::start(
        "location /account { default_type text/plain; return 200 \"account of $http_authorization\"; }\n\
         location /static/ { default_type text/plain; return 200 \"static\"; }\n\
         location / { default_type text/plain; return 200 \"other $uri\"; }",
    )
    .await?;
    let config = format!(
        "[cache.patterns]\n\
         \"/static/*\" = {{ ttl = 60, override = true, vary_on = [] }}\n\
         \"/account\" = {{ ttl = 60, override = true, per_user = true }}\n\
         [[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}\"]\ncache = \"off\"\n",
        nginx.port()
    );
    Ok((
        nginx,
        Gateway::start_with(&config, server, &[], None).await?,
    ))
}

/// What nginx resolves to the account although it begins with the static files, or otherwise.
const DOTS: [&str; 16] = [
    "/static/../account",
    "/static/%2e%2e/account",
    "/static/.%2E/account",
    "/static/..%2faccount",
    "/static/%2e%2e%2faccount",
    "/static/..%5caccount",
    "/static/..;/account",
    "/static/%252e%252e/account",
    "/static/..%252faccount",
    "/static/./../account",
    "/static/..//account",
    "/static//../account",
    "/./account",
    "/x/..%2faccount",
    "/static/%c0%ae%c0%ae/account",
    "/account/..%00.css",
];

#[tokio::test]
async fn paths_that_readers_resolve_differently_are_refused() -> Result<()> {
    let (_nginx, gateway) = site("").await?;
    for path in DOTS {
        let alice = get(&gateway, path, "authorization: alice").await?;
        assert_eq!(alice.status(), 400, "{path}: {}", alice.text());
        assert!(body(&alice).contains("dot segments"), "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn paths_that_readers_resolve_differently_go_past_the_cache_where_that_is_chosen()
-> Result<()> {
    let (_nginx, gateway) = site("ambiguous_paths = \"bypass\"").await?;
    for path in DOTS {
        let alice = get(&gateway, path, "authorization: alice").await?;
        let bob = get(&gateway, path, "authorization: bob").await?;
        assert!(!is_hit(&bob), "{path}: {}", bob.text());
        assert!(!body(&bob).contains("alice"), "{path}: {}", bob.text());
        for answer in [&alice, &bob] {
            if answer.status() == 200 && body(answer).contains("account") {
                // Where the path as it is written has no rule there is no member at all.
                let status = field(answer, "cache-status");
                assert!(
                    status.is_empty() || status.contains("ambiguous-path"),
                    "{path}: {}",
                    answer.text()
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn other_spellings_of_a_path_have_its_rules() -> Result<()> {
    let (_nginx, gateway) = site("").await?;
    for path in [
        "//account",
        "/%61ccount",
        "/accoun%74",
        "///account",
        "/%61%63%63%6f%75%6e%74",
    ] {
        for user in ["alice", "bob", "carol"] {
            let answer = get(&gateway, path, &format!("authorization: {user}")).await?;
            assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
            assert_eq!(body(&answer), format!("account of {user}"), "{path}");
        }
        let again = get(&gateway, path, "authorization: bob").await?;
        assert!(is_hit(&again) && body(&again).ends_with("bob"), "{path}");
    }
    Ok(())
}

/// Of a path with an escaped separator or a parameter nobody can tell whether it is the account.
#[tokio::test]
async fn a_path_that_may_be_of_another_rule_is_not_kept_under_this_one() -> Result<()> {
    let nginx = Nginx::start(
        "location / { default_type text/plain; return 200 \"$uri of $http_authorization\"; }",
    )
    .await?;
    let config = format!(
        "[cache.patterns]\n\"/account/*\" = {{ ttl = 60, override = true, per_user = true }}\n\
         \"/account\" = {{ ttl = 60, override = true, per_user = true }}\n\
         \"/*\" = {{ ttl = 60, override = true, vary_on = [] }}\n\
         [[routes]]\npath = \"/\"\nupstreams = [\"http://127.0.0.1:{}\"]\n",
        nginx.port()
    );
    let gateway = Gateway::start(&config).await?;
    for path in [
        "/account%2fx",
        "/account%5cx",
        "/%2561ccount",
        "/account%252fx",
    ] {
        assert_eq!(get(&gateway, path, "").await?.status(), 400, "{path}");
    }
    for path in [
        "/account;x.css",
        "/account%3bx.css",
        "/%61ccount%3Bx",
        "/account%3fx.css",
        "/account%23x",
    ] {
        let alice = get(&gateway, path, "authorization: alice").await?;
        assert_eq!(alice.status(), 200, "{path}");
        assert!(field(&alice, "cache-status").contains("ambiguous-path"));
        let bob = get(&gateway, path, "authorization: bob").await?;
        assert!(body(&bob).ends_with("of bob"), "{path}: {}", bob.text());
    }
    // One that no rule tells apart goes on as it is.
    let plain = "/files/a%2fb;v=1";
    assert_eq!(get(&gateway, plain, "").await?.status(), 200);
    assert!(is_hit(&get(&gateway, plain, "").await?));
    Ok(())
}

#[tokio::test]
async fn what_is_no_path_is_refused() -> Result<()> {
    let (_nginx, gateway) = site("").await?;
    for path in ["/%", "/%zz", "/static/%2", "/%u002e%u002e/account"] {
        assert_eq!(get(&gateway, path, "").await?.status(), 400, "{path}");
    }
    let options = ask(&gateway, "OPTIONS * HTTP/1.1\r\nhost: h.test").await?;
    assert!(options.status() < 500, "{}", options.text());
    Ok(())
}

/// What says most precisely how a path is kept stands over what is wider.
#[tokio::test]
async fn a_wide_pattern_does_not_keep_what_is_told_not_to_be_kept() -> Result<()> {
    let nginx = Nginx::start(
        "location / { default_type text/plain; return 200 \"$uri of $http_cookie\"; }",
    )
    .await?;
    let port = nginx.port();
    let route = |path: &str, keys: &str| {
        format!(
            "[[routes]]\npath = \"{path}\"\nupstreams = [\"http://127.0.0.1:{port}\"]\n{keys}\n"
        )
    };
    let config = format!(
        "[cache.patterns]\n\"/*\" = {{ ttl = 60, override = true }}\n\"/free\" = 0\n\"/free/*\" = 0\n\
         \"/off/*\" = {{ ttl = 60, override = true }}\n{}{}{}",
        route("/", ""),
        route("/account", "cache = \"off\""),
        route("/off", "cache = \"off\""),
    );
    let gateway = Gateway::start(&config).await?;
    for path in ["/account", "/account/x", "/free", "/free/x", "/off/x"] {
        get(&gateway, path, "cookie: s=alice").await?;
        let bob = get(&gateway, path, "cookie: s=bob").await?;
        assert!(
            !is_hit(&bob) && body(&bob).ends_with("bob"),
            "{path}: {}",
            bob.text()
        );
    }
    get(&gateway, "/other", "").await?;
    assert!(is_hit(&get(&gateway, "/other", "").await?));
    Ok(())
}
