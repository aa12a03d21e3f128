//! Parse, run, exit code.

use clap::{CommandFactory, Parser};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use tidegate::cli::{self, Cli, Command, Delivery, Format};
use tidegate::commands;
use tidegate::delivery::{self, Asked};
use tidegate::error::{Error, Reason, Result};
use tidegate::inputs::Inputs;
use tidegate::report::{Report, outputs};
use tidegate::sweep::{self, Mode};
use tidegate::tools::console::Console;
use tidegate::tools::wait::{Cancel, Clock};
use tidegate::vars::Vars;
use tidegate::world::World;
use tidegate::{context::Request, doctor, rehearse, run, serve};

/// 128 + the signal that cancelled the run.
static SIGNAL_CODE: AtomicU8 = AtomicU8::new(0);

fn main() -> ExitCode {
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let vars = Vars::of_process();
    let console = Console::of_process(&vars);
    let line = command_line(&vars).inspect_err(|error| {
        // A step that fails for its inputs has outputs all the same: later steps ask for the reason.
        let world = World {
            vars: vars.clone(),
            console: console.clone(),
            clock: Clock::real(),
            cancel: Cancel::new(),
            rehearsal: false,
            detour: None,
        };
        let _untold = outputs::write(&Report::of_error(error), None, &world);
    });
    let carried = line.and_then(|line| match parse(line, &vars, &console) {
        Ok(cli) => dispatch(&cli.command, vars, &console),
        Err(code) => Ok(code),
    });
    match carried {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            console.error(error.reason.name(), &error.lines());
            ExitCode::from(exit_code(error.reason))
        }
    }
}

/// Parses the command line, or says what is wrong with it, or helps; then the exit code. A mistake in a step leaves outputs.
fn parse(line: Vec<String>, vars: &Vars, console: &Console) -> std::result::Result<Cli, u8> {
    Cli::try_parse_from(line).map_err(|mistake| {
        if mistake.exit_code() == 0 {
            mistake.exit(); // help and version, on stdout
        } else {
            let first = mistake.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let error = Error::new(Reason::InputInvalid, first);
            let world = World {
                vars: vars.clone(),
                console: console.clone(),
                clock: Clock::real(),
                cancel: Cancel::new(),
                rehearsal: false,
                detour: None,
            };
            let _untold = outputs::write(&Report::of_error(&error), None, &world);
            // Words of others may be in it: an input of the step, a name.
            mistake.to_string().trim_end().lines().for_each(|line| console.line(line));
            u8::try_from(mistake.exit_code()).unwrap_or(2)
        }
    })
}

/// The arguments of the process, or what the inputs of the step stand for; and the folder where all that is meant.
fn command_line(vars: &Vars) -> Result<Vec<String>> {
    let given = cli::without_empty(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()));
    let inputs = Inputs::of(vars);
    let line = inputs.command_line(given.get(1..).unwrap_or_default())?;
    if let Some(folder) = inputs.path("working-directory") {
        std::env::set_current_dir(&folder).map_err(|error| {
            Error::new(Reason::InputInvalid, format!("the input `working-directory` is {:?}: {error}", folder.display()))
                .hint("write a folder of the checkout, as `services/api`; actions/checkout comes first")
        })?;
    }
    Ok(line.unwrap_or(given))
}

fn exit_code(reason: Reason) -> u8 {
    match (reason, SIGNAL_CODE.load(Ordering::SeqCst)) {
        (Reason::Cancelled, code) if code > 0 => code,
        _other => reason.exit_code(),
    }
}

fn dispatch(command: &Command, vars: Vars, console: &Console) -> Result<u8> {
    match command {
        Command::Check(file) => {
            let named = file.config.clone().or_else(|| Inputs::of(&vars).path("config"));
            commands::check::run(console, named.as_deref()).map(|()| 0)
        }
        Command::Schema { of } => print(&commands::schema::text(*of)),
        // It is small and lives long: no runtime, no console.
        Command::ServeJob { folder } => serve::supervise(folder).map(|()| 0),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "tidegate", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Explain(about) => {
            let explanation = commands::explain::explain(&about.asked(&vars)?, &vars)?;
            match about.delivery.format {
                Format::Json => print(&format!("{:#}\n", explanation.json())),
                Format::Text => {
                    explanation.print(console);
                    Ok(0)
                }
            }
        }
        Command::Run(_)
        | Command::Merge(_)
        | Command::Release(_)
        | Command::PrOpened(_)
        | Command::PrClosed(_)
        | Command::Deploy(_)
        | Command::Rollback(_)
        | Command::Hotfix(_)
        | Command::Quarantine(_)
        | Command::Sweep(_)
        | Command::Plan(_)
        | Command::Drain(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Init(_)
        | Command::Doctor(_)
        | Command::Trigger(_)
        | Command::Status(_)
        | Command::Lock(_)
        | Command::Serve(_)
        | Command::Rehearse(_) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.map_err(|error| Error::new(Reason::Internal, format!("no runtime: {error}")))?;
            let code = runtime.block_on(with_world(command, vars, console.clone()));
            runtime.shutdown_background(); // what still waits belongs to a run that has ended
            code
        }
    }
}

async fn with_world(command: &Command, vars: Vars, console: Console) -> Result<u8> {
    let cancel = Cancel::new();
    listen(cancel.clone());
    let world = World { vars, console, clock: Clock::real(), cancel, rehearsal: false, detour: None };
    match command {
        Command::Run(args) => deliver(&world, &args.delivery, args.asked(&world.vars)).await,
        Command::Merge(args) => deliver(&world, args, args.asked(Request::Merge, &world.vars)).await,
        Command::Release(args) => deliver(&world, args, args.asked(Request::Release, &world.vars)).await,
        Command::PrOpened(args) => deliver(&world, args, args.asked(Request::PrOpened, &world.vars)).await,
        Command::PrClosed(args) => deliver(&world, args, args.asked(Request::PrClosed, &world.vars)).await,
        Command::Deploy(args) => deliver(&world, &args.delivery, args.asked(&world.vars)).await,
        Command::Hotfix(args) => deliver(&world, &args.delivery, args.asked(&world.vars)).await,
        Command::Rollback(args) => deliver(&world, &args.delivery, args.asked(&world.vars)).await,
        Command::Quarantine(args) => commands::quarantine::run(&world, args).await.and_then(print_some),
        Command::Sweep(args) => sweep(&world, args, Mode::Remove).await,
        Command::Plan(about) => {
            if let Some(args) = about.sweep() {
                return sweep(&world, &args, Mode::Plan).await;
            }
            if let Some(args) = about.restore() {
                return commands::restore::run(&world, &args, commands::restore::Mode::Plan).await.and_then(print_some);
            }
            let plan = commands::plan::plan(&world, &about.asked(&world.vars)?).await?;
            match about.delivery.format {
                Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&plan).unwrap_or_default())),
                Format::Text => {
                    plan.lines().iter().for_each(|line| world.console.line(line));
                    Ok(0)
                }
            }
        }
        Command::Drain(args) => commands::drain::run(&world, args).await.map(|()| 0),
        Command::Backup(args) => commands::backup::run(&world, args).await.and_then(print_some),
        Command::Restore(args) => commands::restore::run(&world, args, commands::restore::Mode::Restore).await.and_then(print_some),
        Command::Doctor(args) => {
            let (text, code) = doctor::run(&world, args).await?;
            print_some(text)?;
            Ok(code)
        }
        Command::Init(args) => commands::init::run(&world, args).await.and_then(print_some),
        Command::Trigger(trigger) => commands::trigger::run(&world, trigger).await.and_then(print_some),
        Command::Status(args) => commands::status::run(&world, args).await.and_then(print_some),
        Command::Lock(lock) => commands::lock::run(&world, lock).await.and_then(print_some),
        Command::Rehearse(args) => {
            let report = rehearse::rehearse(
                &world,
                args.config.clone().or_else(|| Inputs::of(&world.vars).path("config")).as_deref(),
                args.ci,
                &args.rehearsal,
            )
            .await?;
            Ok(finish(&world, &report))
        }
        Command::Serve(args) => serve::run(&world, args).await.map(|()| 0),
        Command::Check(_) | Command::Schema { .. } | Command::Completions { .. } | Command::Explain(_) | Command::ServeJob { .. } => Ok(0), // done without a runtime
    }
}

async fn deliver(world: &World, args: &Delivery, asked: Result<Asked>) -> Result<u8> {
    let report = match asked {
        Ok(asked) => match prepare(world, &asked).await {
            Ok(prepared) => {
                sweep::make_room(world, &asked, &prepared).await;
                let report = run::run(world, &prepared).await.0;
                run::back::after(world, &asked, &prepared, report).await
            }
            Err(error) => Report::of_error(&error),
        },
        Err(error) => Report::of_error(&error),
    };
    let code = finish(world, &report);
    match publish(world, args, &report) {
        Err(error) if code == 0 => Err(error),
        Err(error) => {
            world.console.warning(&error.to_string());
            Ok(code)
        }
        Ok(()) => Ok(code),
    }
}

async fn sweep(world: &World, args: &sweep::Args, mode: Mode) -> Result<u8> {
    let (text, swept) = sweep::run(world, args, mode).await?;
    print_some(text)?;
    swept.map(|()| 0)
}

async fn prepare(world: &World, asked: &Asked) -> Result<delivery::Prepared> {
    tokio::select! {
        prepared = delivery::prepare(world, asked) => prepared,
        () = world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, "cancelled before anything was done")),
    }
}

/// Outputs, summary and report file, also for a run that failed.
fn publish(world: &World, args: &Delivery, report: &Report) -> Result<()> {
    for warning in outputs::write(report, args.report.as_deref(), world) {
        world.console.warning(&warning);
    }
    if let Some(path) = &args.report {
        outputs::write_report(report, Path::new(path), world)?;
    }
    if args.format == Format::Json {
        print(&outputs::report_json(report, world))?;
    }
    Ok(())
}

fn finish(world: &World, report: &Report) -> u8 {
    if let Some(error) = &report.error {
        world.console.error(error.reason.name(), &error.lines());
    }
    exit_code(report.reason)
}

/// The first signal asks the run to stop in order, the second one ends the process.
fn listen(cancel: Cancel) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else { return };
    tokio::spawn(async move {
        loop {
            let code = tokio::select! {
                Some(()) = interrupt.recv() => 130,
                Some(()) = terminate.recv() => 143,
                else => return,
            };
            if SIGNAL_CODE.swap(code, Ordering::SeqCst) != 0 {
                #[allow(clippy::exit)]
                std::process::exit(i32::from(code));
            }
            cancel.cancel();
        }
    });
}

fn print_some(text: Option<String>) -> Result<u8> {
    text.map_or(Ok(0), |text| print(&text))
}

/// Machine output. A reader that went away is no failure.
fn print(text: &str) -> Result<u8> {
    let _closed = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}
