//! The page at `/` of the demo: what there is to try.

use actix_web::{HttpResponse, http::header};

const INDEX: &str = include_str!("index.html");

pub(super) async fn index() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "max-age=60"))
        .body(INDEX)
}
