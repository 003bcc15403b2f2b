//! Who a user is, where a store is kept for each.

use crate::{body, echo, field, get, is_hit};
use anyhow::Result;
use weaver_tests::Gateway;

#[tokio::test]
async fn without_an_identity_nothing_is_kept_for_a_user() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("per_user = true")).await?;
    for cookie in ["session=alice", "session=bob", "session=alice"] {
        let answer = get(&gateway, "/", &format!("cookie: {cookie}")).await?;
        let status = field(&answer, "cache-status");
        assert!(status.contains("no-identity"), "{status}");
        assert!(body(&answer).contains(cookie), "{}", answer.text());
    }
    assert_eq!(origin.requests(), 3);
    let warned = gateway.process().output();
    assert!(warned.contains("per_user is on"), "{warned}");
    assert!(is_hit_for(&gateway, "authorization: x").await?);
    Ok(())
}

async fn is_hit_for(gateway: &Gateway, fields: &str) -> Result<bool> {
    get(gateway, "/", fields).await?;
    Ok(is_hit(&get(gateway, "/", fields).await?))
}

#[tokio::test]
async fn what_is_listed_tells_users_apart() -> Result<()> {
    let origin = echo().await?;
    let keys = "per_user = true\nidentity = [\"cookie:session\", \"header:X-User\"]";
    let gateway = Gateway::start(&origin.route(keys)).await?;
    let users = [
        "cookie: session=alice",
        "cookie: session=bob",
        "x-user: alice",
        "cookie: session=alice\r\nx-user: alice",
        "cookie: session=alice; session=bob",
    ];
    for user in users {
        let first = get(&gateway, "/", user).await?;
        assert!(!is_hit(&first), "{user}: {}", first.text());
        let again = get(&gateway, "/", user).await?;
        assert!(is_hit(&again) && body(&again) == body(&first), "{user}");
    }
    assert_eq!(origin.requests(), users.len(), "one each");
    // What reaches the origin beside it counts too, and what is empty is nobody.
    for other in ["authorization: bob", "authorization: carol"] {
        let fields = format!("cookie: session=alice\r\n{other}");
        assert!(!is_hit(&get(&gateway, "/", &fields).await?), "{other}");
    }
    for nobody in [
        "cookie: session=",
        "x-user:",
        "cookie: session=\r\nx-user: ",
    ] {
        let answer = get(&gateway, "/", nobody).await?;
        assert!(
            field(&answer, "cache-status").contains("no-identity"),
            "{nobody}"
        );
    }
    // Other cookies make no difference, and credentials alone are no identity here.
    assert!(is_hit(
        &get(&gateway, "/", "cookie: a=b; session=alice").await?
    ));
    let other = get(&gateway, "/", "authorization: alice").await?;
    assert!(field(&other, "cache-status").contains("no-identity"));
    Ok(())
}

#[tokio::test]
async fn whoami_is_kept_where_nobody_is_known() -> Result<()> {
    let gateway = Gateway::start("").await?;
    assert_eq!(get(&gateway, "/whoami", "").await?.status(), 200);
    assert!(is_hit(&get(&gateway, "/whoami", "").await?));
    Ok(())
}

#[tokio::test]
async fn credentials_that_nobody_reads_here_keep_users_apart() -> Result<()> {
    let origin = echo().await?;
    let keyed = "[auth]\nmode = \"api_key\"\napi_keys = [\"k:ann\"]\n[cache.patterns]\n\
                 \"/*\" = { ttl = 60, override = true }\n";
    let by_cookie = "[auth]\nmode = \"api_key\"\napi_keys = [\"k:ann\"]\n[cache.patterns]\n\
                     \"/*\" = { ttl = 60, override = true, per_user = true, identity = [\"cookie:s\"] }\n";
    for (config, one, other) in [
        (
            keyed,
            "authorization: Basic YQ==",
            "authorization: Basic Yg==",
        ),
        (by_cookie, "cookie: s=a", "cookie: s=b"),
        ("", "x-api-key: a", "x-api-key: b"),
        ("", "x-user-id: a", "x-user-id: b"),
    ] {
        let gateway = Gateway::start(&format!("{config}{}", origin.route(""))).await?;
        let key = if config.is_empty() {
            ""
        } else {
            "x-api-key: k\r\n"
        };
        for fields in [one, other] {
            let fields = format!("{key}{fields}");
            let first = get(&gateway, "/", &fields).await?;
            assert!(!is_hit(&first), "{fields}: {}", first.text());
            assert!(is_hit(&get(&gateway, "/", &fields).await?), "{fields}");
        }
    }
    Ok(())
}
