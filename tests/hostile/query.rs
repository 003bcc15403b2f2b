//! The query: what is in the key and what goes up agree.

use crate::{body, echo, get, is_hit};
use anyhow::Result;
use weaver_tests::Gateway;

async fn sent(gateway: &Gateway, target: &str) -> Result<String> {
    let answer = get(gateway, target, "").await?;
    let text = body(&answer);
    Ok(text.split(' ').nth(1).unwrap_or("").to_owned())
}

#[tokio::test]
async fn what_is_not_in_the_key_does_not_go_up() -> Result<()> {
    let origin = echo().await?;
    for (keys, given, goes_up) in [
        ("query_only = [\"id\"]", "/?id=1&x=evil", "/?id=1"),
        ("query_only = [\"id\"]", "/?%69d=2&x=evil", "/?%69d=2"),
        ("query_only = [\"id\"]", "/?x=evil", "/"),
        ("query_only = [\"id\"]", "/?x=1;id=3", "/"),
        ("query_except = [\"utm\"]", "/?a=4&utm=evil", "/?a=4"),
        ("query_except = [\"utm\"]", "/?a=5&%75tm=evil", "/?a=5"),
        (
            "query_except = [\"u t\"]",
            "/?a=6&u+t=evil&u%20t=evil",
            "/?a=6",
        ),
        ("query_except = [\"utm\"]", "/?a=7;utm=x", "/?a=7;utm=x"),
        ("ignore_query = true", "/i?x=evil", "/i"),
        ("sort_query = true", "/?b=1&a=2&b=0", "/?a=2&b=1&b=0"),
    ] {
        let gateway = Gateway::start(&origin.route(keys)).await?;
        assert_eq!(sent(&gateway, given).await?, goes_up, "{keys} {given}");
    }
    Ok(())
}

#[tokio::test]
async fn escaped_names_are_the_names_that_they_are() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("query_only = [\"id\"]")).await?;
    assert_eq!(sent(&gateway, "/?id=1").await?, "/?id=1");
    assert_eq!(sent(&gateway, "/?%69d=2").await?, "/?%69d=2");
    assert!(is_hit(&get(&gateway, "/?i%64=1", "").await?));
    assert!(is_hit(&get(&gateway, "/?x=y&id=2", "").await?));
    Ok(())
}

#[tokio::test]
async fn a_request_that_changes_something_keeps_its_query() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("query_only = [\"id\"]")).await?;
    let head = "POST /?id=1&x=2 HTTP/1.1\r\nhost: h.test\r\ncontent-length: 0";
    let answer = crate::ask(&gateway, head).await?;
    assert!(body(&answer).starts_with("post /?id=1&x=2 "));
    Ok(())
}

#[tokio::test]
async fn what_readers_decode_differently_is_equivalent_to_nothing() -> Result<()> {
    let origin = echo().await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    for (raw, escaped) in [
        ("/?q=50%", "/?q=50%25"),
        ("/?q=%zz", "/?q=%25zz"),
        ("/?a%2", "/?a%252"),
    ] {
        assert_eq!(sent(&gateway, raw).await?, raw);
        assert_eq!(sent(&gateway, escaped).await?, escaped);
        assert!(is_hit(&get(&gateway, raw, "").await?), "{raw}");
    }
    Ok(())
}
