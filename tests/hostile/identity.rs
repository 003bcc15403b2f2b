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
    assert_eq!(origin.requests(), users.len());
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
