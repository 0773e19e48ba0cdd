//! The program behind `run.sh`.

#![deny(unsafe_code)]

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;

use anyhow::Result;
use holdfast_run::cli::{Cli, Job};
use holdfast_run::failure::{STATUS_HOST, exit_code};
use holdfast_run::guest::protocol::Work;
use holdfast_run::session::Session;
use holdfast_run::workspace::Workspace;
use holdfast_run::{linux_guest, main_job, process, testing};

fn main() -> ExitCode {
    let cli = match Cli::from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return exit_code(if error.use_stderr() { STATUS_HOST } else { 0 });
        }
    };
    match dispatch(&cli) {
        Ok(status) => exit_code(status),
        Err(error) => {
            eprintln!("run.sh: {error:#}");
            exit_code(STATUS_HOST)
        }
    }
}

/// Does what the command line asks for and returns the status to exit with.
fn dispatch(cli: &Cli) -> Result<u8> {
    process::end_cleanly_on_signals()?;
    let workspace = Workspace::find()?;
    let command = cli.command_words();
    let work = match (&cli.job, command) {
        (Some(Job::Test(options)), _) => return testing::run(&workspace, options),
        (Some(Job::LinuxGuest(options)), Some(command)) => {
            return linux_guest::command(&workspace, &cli.options, options, &command);
        }
        (Some(Job::RunCase { name }), _) => {
            return testing::run_case(&workspace, name).map(|()| 0);
        }
        (Some(Job::Race(options)), _) => Work::Race(options.words()),
        (Some(Job::Shell), _) => Work::Shell { terminal: stdin().is_terminal() },
        (_, Some(command)) => Work::Command(command),
        (_, None) if cli.options.script.is_some() => Work::Script,
        (_, None) => return main_job::run(&workspace, &cli.options),
    };
    let session = Session::new(&workspace, &cli.options, work)?;
    if cli.options.print_qemu {
        println!("{}", session.machine().shell_line()?);
        return Ok(0);
    }
    Ok(session.run(&mut stdout())?.status)
}
