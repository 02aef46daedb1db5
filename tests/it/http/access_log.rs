//! The access log of the real binary.

use serde_json::Value;

use crate::support::binary::Binary;
use crate::support::{client, temporary};

#[tokio::test(flavor = "multi_thread")]
async fn answered_requests_are_logged_without_what_they_carry() {
    for (ratio, lines) in [("1", 4), ("0", 0)] {
        let directory = temporary::directory();
        let server = Binary::start(directory.path(), &[("ACCESS_LOG_RATIO", ratio)]).await;
        for path in
            ["/health/live", "/api/events?type=s3cret", "/console/link/s3cret", "/api/s3cret"]
        {
            let request = client().get(format!("{}{path}", server.base_url));
            request.header("x-api-key", "hg_s3cret").send().await.unwrap();
        }
        let log = server.stop().await;
        let lines_of_json = log.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let logged: Vec<Value> =
            lines_of_json.filter(|line| line["target"] == "hookgate::access").collect();
        assert_eq!(logged.len(), lines, "{log:#?}");
        if let [live, events, link, other] = &logged[..] {
            assert_eq!((&live["route"], &live["status"]), (&"/health/live".into(), &200.into()));
            assert_eq!((&events["route"], &events["status"]), (&"/api/events".into(), &401.into()));
            assert_eq!(
                (&events["method"], &events["client"]),
                (&"GET".into(), &"127.0.0.1".into())
            );
            assert_eq!(
                (&link["route"], &other["route"]),
                (&"/console/link/{token}".into(), &"unmatched".into())
            );
            assert!(
                events["trace_id"].is_string() && events["duration_ms"].is_number(),
                "{events}"
            );
        }
        assert!(!format!("{log:?}").contains("s3cret"), "{log:#?}");
    }
}
