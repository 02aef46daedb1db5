//! The files of deployments, checked by the tools of those who use them.

use std::path::Path;

use tokio::process::Command;

#[tokio::test]
async fn dockerfile_manifests_and_unit_are_valid() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/run");
    let output = Command::new(script).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains("statefulset/hookgate"), "{said}{errors}");
}
