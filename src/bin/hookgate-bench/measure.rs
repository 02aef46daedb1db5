//! Runs the scenarios, with their warm-ups, repetitions and peers, and reports them.

use std::path::Path;
use std::time::Duration;

use hookgate::cli::{CliError, print_line};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::args::{RunArgs, Scenario};
use crate::client::ApiClient;
use crate::disk::DiskMeter;
use crate::drain::Drain;
use crate::load::Load;
use crate::memory;
use crate::neighbour::{Neighbour, Neighbourhood};
use crate::peer::Peer;
use crate::report::{ALONE, Measured, Report};
use crate::run::Run;
use crate::server::Server;
use crate::target::Target;
use crate::{end_to_end, inbox, store};

/// Events that are stored before reads are measured: as many as a batch may have.
const STORED_EVENTS: usize = 1_000;

/// Measures every scenario of the arguments and prints a report of each.
pub(crate) async fn measure(args: &RunArgs, stop: &CancellationToken) -> Result<(), CliError> {
    if let Some(file) = &args.json {
        // Checked now, because the measurement takes minutes.
        check_directory(file)?;
    }
    check_options(args)?;
    let mut reports = Vec::new();
    for scenario in &args.scenario {
        // A new server per scenario, so that none runs on data that another one stored.
        let server = unless_stopped(stop, Server::start(args)).await?;
        let report = async {
            if scenario.reads() {
                unless_stopped(stop, store_events(&server)).await?;
            }
            measure_on(args, *scenario, &server, stop).await
        };
        let report = report.await;
        server.stop().await;
        let report = report?;
        print_line(&report.to_string())?;
        reports.push(report);
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&reports)?;
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    match reports.iter().find(|report| !report.has_successes()) {
        None => Ok(()),
        Some(report) => {
            Err(format!("{}: no request got the expected answer", report.scenario).into())
        }
    }
}

/// Stores the events that are read.
async fn store_events(server: &Server) -> Result<(), CliError> {
    let event =
        json!({"type": "bench.read", "payload": {"text": "x".repeat(80)}, "account_id": "bench"});
    let batch = vec![event; STORED_EVENTS].into_iter().collect::<Value>();
    let client = ApiClient::new(server.authority(), server.api_key());
    client.call("POST", "/api/events/batch", &batch.to_string()).await?;
    server.settle().await;
    Ok(())
}

/// Whether an option does anything in a scenario.
type Applies = fn(Scenario) -> bool;

/// Refuses options that a scenario would ignore.
fn check_options(args: &RunArgs) -> Result<(), CliError> {
    let is_end_to_end = |one: Scenario| one == Scenario::EndToEnd;
    let options: [(&str, bool, Applies); 5] = [
        ("--peer-reqwest", args.peer_reqwest.is_some(), is_end_to_end),
        ("--disk", args.disk, is_end_to_end),
        ("--drain", args.drain, Scenario::only_ingests),
        ("--dedup-ids", args.fields.dedup_ids, Scenario::posts_json),
        ("--labels", args.fields.labels, Scenario::posts_json),
    ];
    for (option, is_set, applies) in options {
        if let Some(other) = args.scenario.iter().find(|one| is_set && !applies(**one)) {
            return Err(format!("{option} does not work with --scenario {other}").into());
        }
    }
    Ok(())
}

fn check_directory(file: &Path) -> Result<(), CliError> {
    let directory = std::path::absolute(file)?.parent().map(Path::to_owned).unwrap_or_default();
    if directory.is_dir() {
        return Ok(());
    }
    Err(format!("--json: no such directory: {}", directory.display()).into())
}

/// Waits for `work`, or fails as soon as the measurement is interrupted.
pub(crate) async fn unless_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    tokio::select! {
        done = work => done,
        () = stop.cancelled() => Err("interrupted".into()),
    }
}

/// Waits until the server has stored every accepted event.
async fn settle(server: &Server, stop: &CancellationToken) -> Result<(), CliError> {
    unless_stopped(stop, async {
        server.settle().await;
        Ok(())
    })
    .await
}

/// Measures a scenario alone, beside a neighbour, or in alternation with a peer.
async fn measure_on(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    stop: &CancellationToken,
) -> Result<Report, CliError> {
    if let Some(neighbour) = args.beside {
        return measure_beside(args, scenario, server, neighbour, stop).await;
    }
    let Some((peer, pairs)) = Peer::start(args).await? else {
        return measure_scenario(args, scenario, server, stop).await;
    };
    let name = peer.name();
    let measured = measure_pairs(args, scenario, (server, &peer), pairs, stop).await;
    peer.stop().await;
    let (ours, theirs) = measured?;
    Ok(Report::beside(name, scenario, args, ours, theirs))
}

async fn measure_scenario(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    stop: &CancellationToken,
) -> Result<Report, CliError> {
    one_run(args, scenario, server, args.warm_up, stop).await?;
    let mut runs = Vec::new();
    for number in 1..=args.runs {
        let run = one_run(args, scenario, server, args.duration, stop).await?;
        progress(&format!("{number}/{} {run}", args.runs));
        runs.push(run);
    }
    Ok(Report::new(scenario, args, runs))
}

/// Runs the scenario alone and beside a noisy neighbour, in alternation.
async fn measure_beside(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    neighbour: Neighbour,
    stop: &CancellationToken,
) -> Result<Report, CliError> {
    one_run(args, scenario, server, args.warm_up, stop).await?;
    let hashes_before = server.metric("auth_hashes_total").await?;
    let mut neighbourhood = Neighbourhood::new(neighbour, args, server)?;
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for number in 1..=args.runs {
        settle(server, stop).await?;
        let run = one_run(args, scenario, server, args.duration, stop).await?;
        progress(&format!("{number}/{} alone: {run}", args.runs));
        alone.push(run);
        settle(server, stop).await?;
        let running = unless_stopped(stop, neighbourhood.start()).await?;
        let run = one_run(args, scenario, server, args.duration, stop).await?;
        unless_stopped(stop, running.stop(server)).await?;
        progress(&format!("{number}/{} beside {neighbour}: {run}", args.runs));
        beside.push(run);
    }
    let hashes = server.metric("auth_hashes_total").await? - hashes_before;
    print_line(&format!("beside {neighbour}: {hashes} key hashes computed"))?;
    for line in neighbourhood.notes() {
        print_line(&line)?;
    }
    Ok(Report::beside(ALONE, scenario, args, beside, alone))
}

/// Runs the scenario and its peer in alternation (A B A B …), so that other load on the machine
/// affects both alike.
async fn measure_pairs(
    args: &RunArgs,
    scenario: Scenario,
    (server, peer): (&Server, &Peer<'_>),
    pairs: u32,
    stop: &CancellationToken,
) -> Result<(Vec<Run>, Vec<Run>), CliError> {
    one_run(args, scenario, server, args.warm_up, stop).await?;
    peer.run(args, scenario, args.warm_up, stop).await?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for number in 1..=pairs {
        let run = one_run(args, scenario, server, args.duration, stop).await?;
        settle(server, stop).await?;
        let beside = peer.run(args, scenario, args.duration, stop).await?;
        progress(&format!("{number}/{pairs} {run} | {} {beside}", peer.name()));
        ours.push(run);
        theirs.push(beside);
    }
    Ok((ours, theirs))
}

/// Measures a scenario once.
pub(crate) async fn one_run(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    duration: Duration,
    stop: &CancellationToken,
) -> Result<Run, CliError> {
    let load = Load { connections: args.connections, rate: args.rate, duration };
    let disk = server.disk().filter(|_| args.disk);
    let drains = args.drain && server.stores_events();
    if drains || disk.is_some() {
        // What an earlier run left would count as this one's.
        settle(server, stop).await?;
    }
    let disk_before = disk_bytes(disk, stop).await?;
    let cpu_before = server.cpu().await;
    let loading = load_once(args, scenario, server, load, stop);
    let (loaded, memory_bytes) = memory::peak_during(server.process_id(), loading).await;
    let Loaded { measured, accept_to_receiver, events_per_request } = loaded?;
    let cpu = server.cpu().await.zip(cpu_before).map(|(after, before)| after.since(&before));
    let run = Run::new(measured, events_per_request, cpu).with_memory(memory_bytes);
    let run = run.with_accept_to_receiver(accept_to_receiver.as_ref());
    let drain = if drains {
        let accepted = run.requests * u64::from(events_per_request);
        Some(unless_stopped(stop, Drain::wait(server, accepted)).await?)
    } else {
        None
    };
    let disk_after = disk_bytes(disk, stop).await?;
    let grown = disk_after.zip(disk_before).map(|(after, before)| after - before);
    Ok(run.with_drain(drain).with_disk(grown))
}

/// The size of the database once everything in it is stored.
async fn disk_bytes(
    disk: Option<&DiskMeter>,
    stop: &CancellationToken,
) -> Result<Option<i64>, CliError> {
    match disk {
        Some(disk) => Ok(Some(unless_stopped(stop, disk.steady_bytes()).await?)),
        None => Ok(None),
    }
}

/// What the load of a scenario measured.
struct Loaded {
    measured: Measured,
    accept_to_receiver: Option<Measured>,
    events_per_request: u32,
}

async fn load_once(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    load: Load,
    stop: &CancellationToken,
) -> Result<Loaded, CliError> {
    let mut accept_to_receiver = None;
    let (measured, events_per_request) = match scenario {
        Scenario::EndToEnd => {
            let latencies = end_to_end::run(args, server, load, stop).await?;
            accept_to_receiver = Some(latencies.accept_to_receiver);
            (latencies.end_to_end, 1)
        }
        Scenario::Store => {
            (unless_stopped(stop, store::run(args, server, load)).await?, args.batch)
        }
        Scenario::Inbox => (
            unless_stopped(stop, inbox::run(args, server, load)).await?,
            args.batch.min(inbox::BATCH_MAX),
        ),
        Scenario::IngestBatch => {
            let target = Target::new(scenario, args, server);
            (unless_stopped(stop, load.run(&target)).await?, args.batch)
        }
        Scenario::Ingest
        | Scenario::IngestRaw
        | Scenario::List
        | Scenario::Read
        | Scenario::Write
        | Scenario::Mixed
        | Scenario::SimpleGet
        | Scenario::Openapi
        | Scenario::Health
        | Scenario::Metrics => {
            let targets = Target::in_turn(scenario, args, server);
            (unless_stopped(stop, load.run_in_turn(&targets)).await?, 1)
        }
    };
    Ok(Loaded { measured, accept_to_receiver, events_per_request })
}

/// Shows progress on a terminal, and nowhere else.
#[expect(clippy::print_stderr, reason = "progress belongs on the terminal, not in the answer")]
pub(crate) fn progress(line: &str) {
    use std::io::IsTerminal;
    if std::io::stderr().is_terminal() {
        eprintln!("{line}");
    }
}
