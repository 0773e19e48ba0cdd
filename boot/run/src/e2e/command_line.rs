//! The command line is a contract: statuses, streams, options.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image};
use crate::pattern;
use crate::process::{self, Running};
use crate::testing::case::Case;
use crate::tools::{self, Tool};
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::command_line::status_of_the_command", status_of_the_command),
        Case::new("e2e::command_line::status_32_when_the_disk_is_no_xfs", status_32),
        Case::new("e2e::command_line::status_124_at_the_time_limit", status_124),
        Case::new("e2e::command_line::status_125_when_the_host_cannot", status_125),
        Case::new("e2e::command_line::status_126_at_a_panic", status_126),
        Case::new("e2e::command_line::status_127_for_an_unknown_command", status_127),
        Case::new("e2e::command_line::output_is_the_commands_alone", output_is_the_commands_alone),
        Case::new("e2e::command_line::output_is_binary_safe", output_is_binary_safe),
        Case::new("e2e::command_line::words_arrive_as_given", words_arrive_as_given),
        Case::new("e2e::command_line::help_names_every_command", help_names_every_command),
        Case::new("e2e::command_line::print_qemu", print_qemu),
        Case::new("e2e::command_line::log_levels", log_levels),
        Case::new("e2e::command_line::killed_run_sh_leaves_no_qemu", killed_run_sh_leaves_no_qemu),
        Case::new("e2e::command_line::a_closed_output_ends_the_guest", closed_output),
        Case::new("e2e::command_line::gdb_can_attach", gdb_can_attach),
        Case::new("e2e::command_line::shell_talks_over_a_pipe", shell_talks_over_a_pipe),
        Case::new("e2e::command_line::shell_edits_lines_on_a_terminal", shell_on_a_terminal),
        Case::new("e2e::command_line::a_slow_reader_loses_nothing", slow_reader),
    ]
}

fn status_of_the_command(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    holdfast.run_line("cat /hello.txt")?.success()?.prints("hello from the disk\n")?;
    let failed = holdfast.run_line("cat /no-such-file")?.expect(1)?.prints("")?;
    failed.complains("no-such-file")?.complains("No such file or directory")?;
    Ok(())
}

fn status_32(workspace: &Workspace) -> Result<()> {
    let zeroed = Image::from_bytes(workspace, &vec![0; 1 << 20])?;
    let holdfast = Holdfast::new(workspace).disk(&zeroed.path);
    holdfast.run_line("ls /")?.expect(32)?.prints("")?.complains("XFS")?;
    Ok(())
}

fn status_124(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path).unlimited().with("--timeout 4");
    let start = Instant::now();
    holdfast.run(&["xfs_io", "-r", "-c", "sleep 100", "/hello.txt"])?.expect(124)?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(30), "ended only after {took:?}");
    Ok(())
}

fn status_125(workspace: &Workspace) -> Result<()> {
    let holdfast = || Holdfast::new(workspace);
    holdfast().with("--no-such-option").run_line("ls")?.expect(125)?.prints("")?;
    holdfast().with("--disk no/such.img").run_line("ls")?.expect(125)?.complains("no such file")?;
    let image = Image::small(workspace)?;
    let bad = holdfast().disk(&image.path).with("--qemu=-no-such-qemu-option").run_line("ls")?;
    bad.expect(125)?.prints("")?.complains("no-such-qemu-option")?;
    let missing = holdfast().with("--script no/such/script").start::<&str>(&[])?;
    missing.expect(125)?.complains("no such script")?;
    Ok(())
}

fn status_126(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path).with("--kernel-arg selftest=panic");
    let panicked = holdfast.run_line("ls /")?.expect(126)?;
    // The trace names functions and lines, not bare addresses.
    panicked.complains("panic")?.complains("backtrace: 0x")?.complains(".rs:")?;
    Ok(())
}

fn status_127(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    holdfast.run_line("no-such-command")?.expect(127)?.prints("")?.complains("no-such-command")?;
    Ok(())
}

fn output_is_the_commands_alone(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path).with("--log trace");
    let output = holdfast.run_line("cat /block/entry-7")?.success()?.prints("entry 7\n")?;
    ensure!(!output.stderr.is_empty(), "no kernel log on standard error");
    Ok(())
}

fn output_is_binary_safe(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    for path in ["/all-bytes.bin", "/big.dat"] {
        for machine in ["q35", "microvm"] {
            let holdfast = Holdfast::new(workspace).disk(&image.path);
            let output = holdfast.with("--machine").with(machine).run(&["cat", path])?.success()?;
            let hash = pattern::sha256(&output.stdout);
            ensure!(hash == image.manifest[path], "{path} on {machine}: other bytes came out");
        }
    }
    Ok(())
}

fn words_arrive_as_given(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    for word in ["a b", "--disk", "'quoted\"", "*", "\\", "é", "", "a\nb"] {
        let path = format!("/missing/{word}");
        let output = holdfast.run(&["cat", &path])?.expect(1)?.prints("")?;
        // A name is shown as a shell would take it.
        let shown = output.stderr.replace("'\\''", "'");
        ensure!(
            shown.contains(&path) || word.contains('\n'),
            "{word:?} did not arrive:\n{}",
            output.stderr
        );
    }
    Ok(())
}

fn help_names_every_command(workspace: &Workspace) -> Result<()> {
    const COMMANDS: &str = "ls cat stat readlink getfattr sha256sum df mount sync drop_caches free \
        ps uptime dmesg hexdump bench help xfs_io";
    let image = Image::small(workspace)?;
    let help = Holdfast::new(workspace).disk(&image.path).run_line("help")?.success()?.text();
    let known = |command: &&str| !help.split_whitespace().any(|word| word == *command);
    let unknown: Vec<&str> = COMMANDS.split_whitespace().filter(known).collect();
    ensure!(unknown.is_empty(), "help does not name {unknown:?}:\n{help}");
    Ok(())
}

fn print_qemu(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let before = image.path.metadata()?.modified()?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    let output = holdfast.with("--print-qemu --smp 3").run_line("cat /hello.txt")?.success()?;
    let line = output.text();
    ensure!(line.lines().count() == 1, "not one line:\n{line}");
    let path = image.path.to_string_lossy();
    for part in ["qemu-system-x86_64", "-smp 3", "-kernel", &path] {
        ensure!(line.contains(part), "no {part} in {line}");
    }
    ensure!(image.path.metadata()?.modified()? == before, "the guest ran");
    // The line works by itself: QEMU gives the guest's status.
    let output = process::capture(Command::new("sh").args(["-c", line.trim()]))?;
    ensure!(output.stdout == b"hello from the disk\n", "the line printed {:?}", output.stdout);
    ensure!(output.status.code() == Some(3), "QEMU ended with {}", output.status);
    Ok(())
}

fn log_levels(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let lines = |level: &str| -> Result<usize> {
        let holdfast = Holdfast::new(workspace).disk(&image.path).with("--log").with(level);
        Ok(holdfast.run_line("ls /")?.success()?.stderr.lines().count())
    };
    let (error, info, trace) = (lines("error")?, lines("info")?, lines("trace")?);
    ensure!(error < info && info < trace, "lines of log: {error}, {info}, {trace}");
    Holdfast::new(workspace).with("--log loud").run_line("ls")?.expect(125)?;
    Ok(())
}

/// The command lines of QEMUs that contain a text.
fn processes_with(text: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let line = |entry: std::io::Result<std::fs::DirEntry>| {
        let bytes = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    let is_qemu = |line: &String| line.contains("qemu-system") && line.contains(text);
    entries.filter_map(line).filter(is_qemu).collect()
}

fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done() {
        ensure!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn killed_run_sh_leaves_no_qemu(workspace: &Workspace) -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    let image = Image::small(workspace)?;
    for (signal, status) in
        [(Signal::KILL, None), (Signal::TERM, Some(143)), (Signal::INT, Some(130))]
    {
        let mark = format!("holdfast-mark-{}-{}", std::process::id(), signal.as_raw());
        let mut command = Command::new(workspace.run_sh());
        command.arg("--disk").arg(&image.path).args([
            "--readonly",
            "--qemu",
            &format!("-name {mark}"),
        ]);
        command.args(["--", "xfs_io", "-r", "-c", "sleep 1000", "/hello.txt"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = Running::start(&mut command)?;
        let name = format!("-name {mark}");
        let running_qemus = || processes_with(&name).len();
        wait_until("QEMU runs", Duration::from_secs(120), || running_qemus() == 1)?;
        let pid = i32::try_from(running.child().id())?;
        kill_process(Pid::from_raw(pid).context("no process")?, signal)?;
        let ended = running.wait(Some(Duration::from_secs(20)))?.context("run.sh goes on")?;
        ensure!(ended.code() == status, "run.sh ended with {ended} after {signal:?}");
        wait_until("QEMU is gone", Duration::from_secs(10), || running_qemus() == 0)?;
    }
    Ok(())
}

fn closed_output(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    let mut running = holdfast.start_running(&["--", "cat", "/big.dat", "/big.dat", "/big.dat"])?;
    let mut stdout = running.child().stdout.take().context("no output")?;
    let mut some = [0; 1000];
    stdout.read_exact(&mut some)?;
    drop(stdout);
    let ended = running.wait(Some(Duration::from_secs(30)))?.context("it goes on")?;
    ensure!(ended.code() == Some(125), "ended with {ended}");
    Ok(())
}

fn gdb_can_attach(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path).with("--gdb");
    let mut running = holdfast.start_running(&["--", "ls", "/"])?;
    let stderr = BufReader::new(running.child().stderr.take().context("no log")?);
    const MARK: &str = "target remote 127.0.0.1:";
    let line = stderr.lines().map_while(Result::ok).find(|line| line.contains(MARK));
    let line = line.context("no line to attach a debugger was printed")?;
    let digits: String = line
        .split(MARK)
        .nth(1)
        .unwrap_or_default()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let port: u16 = digits.parse()?;
    let mut stream = None;
    wait_until("QEMU listens", Duration::from_secs(20), || {
        stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    })?;
    let mut stream = stream.context("no connection")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // GDB's remote protocol: "why did you stop?"
    stream.write_all(b"+$?#3f")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    ensure!(&answer[..3] == b"+$T", "not a debugger's answer: {answer:?}");
    Ok(())
}

fn shell_talks_over_a_pipe(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let mut command = Holdfast::new(workspace).disk(&image.path).command(&["shell"])?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running::start(&mut command)?;
    let mut stdin = running.child().stdin.take().context("no input")?;
    stdin.write_all(b"cat /hello.txt\nno-such-command\nexit 3\n")?;
    let mut text = String::new();
    running.child().stdout.take().context("no output")?.read_to_string(&mut text)?;
    let ended = running.wait(Some(Duration::from_secs(60)))?.context("the shell goes on")?;
    ensure!(text == "hello from the disk\n", "the shell said:\n{text}");
    ensure!(ended.code() == Some(3), "the shell ended with {ended}");
    Ok(())
}

/// With a terminal, which `script` of util-linux provides.
fn shell_on_a_terminal(workspace: &Workspace) -> Result<()> {
    const SCRIPT: Tool =
        Tool { program: "script", apt: "bsdutils", dnf: "util-linux-script", pacman: "util-linux" };
    let image = Image::small(workspace)?;
    let inner = Holdfast::new(workspace).disk(&image.path).command(&["shell"])?;
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let line = shlex::try_join(words.iter().map(String::as_str))?;
    let mut command = Command::new(tools::need(&SCRIPT)?);
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env("HOLDFAST_ROOT", workspace.root());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running::start(&mut command)?;
    let mut stdin = running.child().stdin.take().context("no input")?;
    let mut stdout = running.child().stdout.take().context("no output")?;
    let mut text = Vec::new();
    let mut wait_for = |sign: &str| -> Result<String> {
        let mut byte = [0];
        while !String::from_utf8_lossy(&text).contains(sign) {
            let count = stdout.read(&mut byte)?;
            let so_far = String::from_utf8_lossy(&text).into_owned();
            ensure!(count > 0, "no `{sign}` in:\n{so_far}");
            text.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&std::mem::take(&mut text)).into_owned())
    };
    wait_for("holdfast:/$ ")?;
    // A wrong letter, backspace, the right ones; then the line once more from
    // the history.
    stdin.write_all(b"cat /hellX\x7fo.txt\r")?;
    wait_for("hello from the disk")?;
    wait_for("holdfast:/$ ")?;
    stdin.write_all(b"\x1b[A\r")?;
    wait_for("hello from the disk")?;
    stdin.write_all(b"exit 5\r")?;
    let ended = running.wait(Some(Duration::from_secs(60)))?.context("the shell goes on")?;
    ensure!(ended.code() == Some(5), "the shell ended with {ended}");
    Ok(())
}

fn slow_reader(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    let mut running = holdfast.start_running(&["--", "cat", "/big.dat"])?;
    let mut stdout = running.child().stdout.take().context("no output")?;
    std::thread::sleep(Duration::from_secs(8));
    let mut bytes = Vec::new();
    stdout.read_to_end(&mut bytes)?;
    ensure!(pattern::sha256(&bytes) == image.manifest["/big.dat"], "{} bytes came", bytes.len());
    let ended = running.wait(Some(Duration::from_secs(30)))?.context("it goes on")?;
    ensure!(ended.success(), "ended with {ended}");
    Ok(())
}
