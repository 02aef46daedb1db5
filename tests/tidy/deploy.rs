//! Holds the files in `deploy/`, the Dockerfile and docker-compose.yml to the code: their metrics exist, their variables
//! are settings, their links lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::generated::hold;
use super::{files_below, root};
use crate::settings::sections;

/// Variables that Hookgate reads and that are no settings of its own.
const OTHER_VARIABLES: [&str; 1] = ["PGPASSWORD"];

const RULES: &str = "deploy/prometheus/rules.yml";

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The documents of a YAML file.
fn yaml(path: &str) -> Vec<Yaml> {
    let parsed = YamlLoader::load_from_str(&read(path));
    assert!(parsed.is_ok(), "{path}: {parsed:?}");
    parsed.unwrap()
}

fn dashboards() -> Vec<(PathBuf, Value)> {
    let files = files_below(&root().join("deploy/grafana")).into_iter();
    let dashboards = files.filter(|file| file.extension().is_some_and(|e| e == "json"));
    dashboards
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let value: serde_json::Result<Value> = serde_json::from_str(&text);
            assert!(value.is_ok(), "{}: {value:?}", file.display());
            (file, value.unwrap())
        })
        .collect()
}

/// The rules, each with its expression.
fn rules() -> Vec<Yaml> {
    let documents = yaml(RULES);
    let groups = documents[0]["groups"].as_vec().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_vec().unwrap().clone()).collect()
}

/// Every query of the rules and dashboards.
fn queries() -> Vec<String> {
    let of_rules = rules().into_iter().map(|rule| rule["expr"].as_str().unwrap().to_owned());
    let dashboards = dashboards();
    let of_dashboards = dashboards.iter().flat_map(|(_, dashboard)| {
        let panels = dashboard["panels"].as_array().unwrap().iter();
        panels.flat_map(|panel| panel["targets"].as_array().unwrap())
    });
    let of_dashboards = of_dashboards.map(|target| target["expr"].as_str().unwrap().to_owned());
    of_rules.chain(of_dashboards).collect()
}

/// The names of the metrics in a query: words that are neither functions, nor keywords, nor labels.
fn metric_names(query: &str) -> BTreeSet<String> {
    const KEYWORDS: [&str; 8] =
        ["and", "by", "ignoring", "offset", "on", "or", "unless", "without"];
    const LISTS: [&str; 4] = ["by", "ignoring", "on", "without"];
    // Without texts, and then without what is in braces and brackets.
    let mut plain: String = query.split('"').step_by(2).collect();
    for (open, close) in [('{', '}'), ('[', ']')] {
        let parts: Vec<&str> = plain.split(open).collect();
        let kept = parts.iter().enumerate().map(|(number, part)| match number {
            0 => *part,
            _ => part.split_once(close).unwrap().1,
        });
        plain = kept.collect();
    }
    let mut names = BTreeSet::new();
    let mut rest = plain.as_str();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':' || c == '.';
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.trim_start();
        if LISTS.contains(&word) {
            rest = rest.split_once(')').unwrap().1;
        } else if !rest.starts_with('(')
            && !["by (", "without ("].iter().any(|list| rest.starts_with(list))
            && !KEYWORDS.contains(&word)
            && !word.starts_with(|c: char| c.is_ascii_digit())
        {
            names.insert(word.to_owned());
        }
    }
    names
}

#[test]
fn metric_names_of_a_query_are_found() {
    let query =
        r#"sum by (le, a) (rate(b_bucket{c=~"d|e{f}"}[5m])) / on (g) (h:i > 0.5) or vector(0)"#;
    let found: Vec<String> = metric_names(query).into_iter().collect();
    assert_eq!(found, ["b_bucket", "h:i"]);
}

/// The metrics in the table of docs/metrics.md: their type and whether `METRICS=core` has them.
fn documented_metrics() -> BTreeMap<String, (String, bool)> {
    let text = read("docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [name, kind, set, ..] = cells[..] else { return None };
        Some((name.trim_matches(['|', ' ', '`']).to_owned(), (kind.to_owned(), set == "core")))
    })
    .collect()
}

#[test]
fn every_metric_in_rules_and_dashboards_is_documented_and_in_the_core() {
    let metrics = documented_metrics();
    let recorded: Vec<String> =
        rules().iter().filter_map(|rule| Some(rule["record"].as_str()?.to_owned())).collect();
    let mut wrong = Vec::new();
    let names: BTreeSet<String> = queries().iter().flat_map(|query| metric_names(query)).collect();
    for name in names.iter().filter(|name| *name != "up" && !recorded.contains(name)) {
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts.iter().find_map(|part| name.strip_suffix(part));
        let is_part = |family: &&str| metrics.get(*family).is_some_and(|m| m.0 == "histogram");
        let family = family.filter(is_part).unwrap_or(name);
        match metrics.get(family) {
            None => wrong.push(format!("{name} is not in docs/metrics.md")),
            Some((_, false)) => wrong.push(format!("{name} is not in METRICS=core")),
            Some((kind, true)) if kind == "histogram" && family == name => {
                wrong.push(format!("{name} is a histogram: take its buckets"));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(names.len() > 30, "{names:?}");
}

#[test]
fn every_alert_has_a_test_and_a_runbook_that_exists() {
    let operations = read("docs/operations.md");
    let tests = read("deploy/prometheus/rules_test.yml");
    for rule in rules() {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let runbook = rule["annotations"]["runbook"].as_str();
        let expected = format!("docs/operations.md#{}", alert.to_lowercase());
        assert_eq!(runbook, Some(&expected[..]));
        let heading = format!("\n### {alert}\n");
        assert!(operations.contains(&heading), "docs/operations.md has no heading {alert}");
        assert!(rule["annotations"]["summary"].as_str().is_some(), "{alert}");
        assert!(
            matches!(rule["labels"]["severity"].as_str(), Some("critical" | "warning")),
            "{alert}"
        );
        let fires = format!("#{}", alert.to_lowercase());
        assert!(tests.contains(&fires), "{alert} does not fire in rules_test.yml");
    }
}

#[test]
fn dashboards_have_the_structure_that_grafana_reads() {
    let (mut uids, dashboards) = (BTreeSet::new(), dashboards());
    assert_eq!(dashboards.len(), 3);
    for (file, dashboard) in dashboards {
        let file = file.display();
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()), "{file}: uid");
        assert!(dashboard["title"].as_str().unwrap().starts_with("Hookgate: "), "{file}");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let names: Vec<_> = variables.iter().map(|v| v["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["datasource", "instance"], "{file}");
        let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: {title}: id");
            assert!(matches!(panel["type"].as_str(), Some("stat" | "timeseries")), "{title}");
            let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            assert!(places.insert((side("x"), side("y"))), "{file}: {title}: place");
            assert!(side("x") + side("w") <= 24 && side("h") > 0, "{file}: {title}: place");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{file}: {title}: unit");
            let targets = panel["targets"].as_array().unwrap();
            for target in [&targets[..], std::slice::from_ref(panel)].concat() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{file}: {title}");
            }
            let expressions = targets.iter().map(|target| target["expr"].as_str().unwrap());
            for expression in expressions {
                assert!(expression.contains("$instance"), "{file}: {title}: {expression}");
            }
            let refs: BTreeSet<_> = targets.iter().map(|t| t["refId"].as_str().unwrap()).collect();
            assert_eq!(refs.len(), targets.len(), "{file}: {title}: refId");
        }
    }
}

/// The keys of a map, those of its merged maps (`<<`) included.
fn keys(map: &Yaml) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in map.as_hash().unwrap() {
        match key.as_str().unwrap() {
            "<<" => keys.extend(self::keys(value)),
            key => keys.push(key.to_owned()),
        }
    }
    keys
}

#[test]
fn every_variable_of_the_deployments_is_a_setting() {
    let mut found: Vec<(String, String)> = Vec::new();
    let compose = &yaml("docker-compose.yml")[0]["services"];
    for service in ["hookgate", "migrate"] {
        let variables = keys(&compose[service]["environment"]).into_iter();
        found.extend(variables.map(|variable| ("docker-compose.yml".to_owned(), variable)));
    }
    let base = "deploy/kubernetes/base/configmap.yaml";
    found.extend(keys(&yaml(base)[0]["data"]).into_iter().map(|key| (base.to_owned(), key)));
    let example = "deploy/kubernetes/example/kustomization.yaml";
    let literals = yaml(example)[0]["secretGenerator"][0]["literals"].as_vec().unwrap().clone();
    let literals = literals.iter().map(|literal| literal.as_str().unwrap());
    // Lines such as ENV A=1 B=2 and Environment=A=1.
    let (docker, systemd) = (read("Dockerfile"), read("deploy/systemd/hookgate.service"));
    let of_docker = docker.lines().filter_map(|line| line.strip_prefix("ENV "));
    let of_systemd = systemd.lines().filter_map(|line| line.strip_prefix("Environment="));
    let texts = [("the example", literals.collect::<Vec<_>>())];
    let texts = texts.into_iter().chain([
        ("Dockerfile", of_docker.flat_map(str::split_whitespace).collect()),
        ("hookgate.service", of_systemd.collect()),
    ]);
    for (file, assignments) in texts {
        assert!(!assignments.is_empty(), "{file}");
        let variables = assignments.iter().map(|text| text.split_once('=').unwrap().0);
        found.extend(variables.map(|variable| (file.to_owned(), variable.to_owned())));
    }
    let settings: BTreeSet<String> =
        sections().into_iter().flat_map(|(_, all)| all).map(|setting| setting.variable).collect();
    for (file, variable) in found {
        let known = settings.contains(&variable) || OTHER_VARIABLES.contains(&variable.as_str());
        assert!(known, "{file} sets {variable}, which is no setting");
    }
}

#[test]
fn every_yaml_file_of_the_deployments_can_be_read() {
    let files = files_below(&root().join("deploy")).into_iter();
    let files = files.filter(|f| f.extension().is_some_and(|e| e == "yml" || e == "yaml"));
    let files: Vec<PathBuf> = files.chain([root().join("docker-compose.yml")]).collect();
    assert!(files.len() > 15, "{files:?}");
    for file in files {
        let documents = yaml(file.to_str().unwrap());
        assert!(
            documents.iter().all(|document| document.as_hash().is_some()),
            "{}",
            file.display()
        );
    }
}

#[test]
fn compose_starts_database_migrations_and_server_in_this_order() {
    let compose = &yaml("docker-compose.yml")[0]["services"];
    let after = |service: &str, other: &str| {
        compose[service]["depends_on"][other]["condition"].as_str().unwrap().to_owned()
    };
    assert_eq!(after("migrate", "db"), "service_healthy");
    assert_eq!(after("hookgate", "migrate"), "service_completed_successfully");
    let command = compose["migrate"]["command"].as_vec().unwrap();
    assert_eq!(
        command.iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>(),
        ["migrate", "up"]
    );
    let url = compose["hookgate"]["environment"]["<<"]["DATABASE_URL"].as_str().unwrap();
    assert!(!url.contains("PASSWORD"), "the password is apart from the URL");
}

#[test]
fn workflow_starts_benchmarks_and_compares_and_no_speed_fails_it() {
    let workflow = &yaml("deploy/ci/github-actions.yml")[0];
    let steps = workflow["jobs"]["benchmark"]["steps"].as_vec().unwrap();
    let named = |name: &str| steps.iter().position(|step| step["name"].as_str() == Some(name));
    let order = ["Build the change", "Build its base", "Start", "Benchmark", "Compare"].map(named);
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}");
    let script = |name: &str| steps[named(name).unwrap()]["run"].as_str().unwrap();
    assert!(script("Compare").contains("compare --any-speed base.json change.json"));
    assert!(script("Benchmark").contains("--json $side.json"));
    let checks = workflow["jobs"]["checks"]["steps"].as_vec().unwrap();
    assert_eq!(checks.last().unwrap()["run"].as_str(), Some(".ci/run"));
    assert!(read(".ci/run").contains("\nscripts/benchmark\n"));
    assert!(read("scripts/benchmark").contains("compare --any-speed"));
}

#[test]
fn compose_has_no_default_password() {
    let text = read("docker-compose.yml");
    let passwords: Vec<&str> =
        text.lines().filter(|line| line.contains("PASSWORD: ") && line.contains("${")).collect();
    assert_eq!(passwords.len(), 3, "{passwords:?}");
    for line in passwords {
        let is_required = line.contains("PASSWORD:?is not set");
        // Grafana's own start requires this one.
        assert!(is_required || line.ends_with("${GRAFANA_PASSWORD:-}"), "{line}");
    }
    let start = &yaml("docker-compose.yml")[0]["services"]["grafana"]["entrypoint"][2];
    assert!(start.as_str().unwrap().starts_with("[ -n \"$$GF_SECURITY_ADMIN_PASSWORD\" ] || "));
}

#[test]
fn kustomization_names_every_manifest() {
    for folder in ["base", "example"] {
        let folder = format!("deploy/kubernetes/{folder}");
        let named =
            yaml(&format!("{folder}/kustomization.yaml"))[0]["resources"].as_vec().unwrap().clone();
        let named: BTreeSet<&str> =
            named.iter().map(|name| name.as_str().unwrap()).filter(|n| *n != "../base").collect();
        let there = files_below(&root().join(&folder));
        let there = there.iter().map(|file| file.file_name().unwrap().to_str().unwrap());
        assert_eq!(named, there.filter(|name| *name != "kustomization.yaml").collect(), "{folder}");
    }
}

#[test]
fn prometheus_rule_of_kubernetes_has_the_groups_of_the_rules() {
    let (_, groups) =
        read(RULES).split_once("\ngroups:\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let indented: String = groups
        .lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") })
        .collect();
    let path = "deploy/kubernetes/base/prometheusrule.yaml";
    let text = read(path);
    let (head, _) = text.split_once("  groups:\n").unwrap();
    hold(path, &format!("{head}  groups:\n{indented}"));
    assert_eq!(yaml(path)[0]["spec"]["groups"], yaml(RULES)[0]["groups"]);
}
