//! `hookgate doctor`, `config show`, `completions` and `man`.

use std::os::unix::fs::FileExt;

use serde_json::Value;

use super::{Place, Said};
use crate::support::binary::Binary;

/// What was thought of each subject, as `subject judgement`.
fn judged(said: &Said) -> Vec<String> {
    let findings: Vec<Value> = serde_json::from_str(&said.out).unwrap();
    let field = |found: &Value, name: &str| found[name].as_str().unwrap().to_owned();
    findings
        .iter()
        .map(|found| format!("{} {}", field(found, "subject"), field(found, "judgement")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_what_keeps_a_server_from_working() {
    let place = Place::new();
    let doctor = ["doctor", "--integrity", "--output", "json"];
    let said = place.run(&doctor).await;
    assert_eq!(said.code, 0, "{}", said.err);
    for expected in ["directory warning", "disk ok", "store warning", "journal warning"] {
        assert!(judged(&said).contains(&expected.to_owned()), "{}", said.out);
    }
    assert!(!place.path().join("data").exists(), "nothing is made");

    let server = Binary::start(&place.data_dir(), &[]).await;
    let said = place.run(&doctor).await;
    assert_eq!(said.code, 0, "{} {}", said.out, said.err);
    for expected in ["directory ok", "store ok", "clock ok", "journal ok"] {
        assert!(judged(&said).contains(&expected.to_owned()), "{}", said.out);
    }
    assert!(said.out.contains("a server works in it"), "{}", said.out);
    server.stop().await;

    let settings = [("DISK_FREE_WARN_MIB", "1000000000"), ("DISK_FREE_MIN_MIB", "1000000000")];
    let said = place.run_with(&["doctor"], &settings).await;
    assert!(said.code == 1 && said.err.contains("checks failed"), "{}", said.err);
    assert!(said.out.contains("FAILED   disk"), "{}", said.out);

    let settings = [("JOURNAL_MAX_MIB", "64"), ("JOURNAL_SEGMENT_MIB", "64")];
    let said = place.run_with(&doctor, &settings).await;
    assert!(judged(&said).contains(&"settings failure".to_owned()), "{}", said.out);

    let file = place.path().join("data/hookgate.db");
    let file = std::fs::File::options().write(true).open(file).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    for page in 2..pages {
        file.write_all_at(&[0xff; 64], page * 4096).unwrap();
    }
    let said = place.run(&doctor).await;
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(judged(&said).contains(&"store failure".to_owned()), "{}", said.out);
}

#[tokio::test]
async fn settings_are_shown_with_where_they_come_from_and_without_secrets() {
    let place = Place::new();
    std::fs::write(place.path().join(".env"), "WORKERS=3\n").unwrap();
    let settings = [
        ("DATABASE_URL", "postgres://me:hidden@db/hooks"),
        ("HOOKGATE_PORT", "4000"),
        ("BOOTSTRAP_API_KEY", "hg_hidden"),
    ];
    let arguments = ["config", "show", "--changed", "--host", "0.0.0.0"];
    let said = place.run_with(&arguments, &settings).await;
    assert_eq!(said.code, 0, "{}", said.err);
    for line in [
        "HOST=0.0.0.0  (command line)",
        "PORT=4000  (environment)",
        "WORKERS=3  (environment)",
        "DATABASE_URL=postgres://me:***@db/hooks  (environment)",
        "BOOTSTRAP_API_KEY=***  (environment)",
    ] {
        assert!(said.out.lines().any(|shown| shown == line), "{line} in {}", said.out);
    }
    assert_eq!(said.out.lines().count(), 5, "{}", said.out);
    let all = place.json(&["config", "show"]).await;
    let port = all.as_array().unwrap().iter().find(|setting| setting["name"] == "PORT").unwrap();
    assert_eq!((&port["value"], &port["source"]), (&"3000".into(), &"default".into()));
    place.run(&["config", "show", "--port", "x"]).await.failed(2, "--port");
}

#[tokio::test]
async fn shells_and_man_know_every_command() {
    let place = Place::new();
    for (shell, part) in [("bash", "dead-letter"), ("zsh", "#compdef hookgate"), ("fish", "doctor")]
    {
        let said = place.run(&["completions", shell]).await;
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.out.contains(part), "{shell}");
    }
    let said = place.run(&["man"]).await;
    for part in [".TH", "HOOKGATE SERVE", "HOOKGATE EVENT POST", "\\-\\-data\\-dir"] {
        assert!(said.out.contains(part), "{part}");
    }
}
