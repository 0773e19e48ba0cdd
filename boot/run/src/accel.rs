//! KVM or TCG? A device node proves nothing: on some machines `/dev/kvm`
//! opens, makes a virtual machine, and then hangs for ever in an ordinary
//! guest. So KVM is chosen only after our own image has come up on it within
//! a short time; the answer is remembered until the host boots again or QEMU
//! changes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::cli::AccelChoice;
use crate::guest::protocol::Work;
use crate::guest::{Input, Run};
use crate::machine::{Accel, Machine, is_given};
use crate::workspace::Workspace;

/// How long the image may take on KVM, where it needs a fraction of that.
const LIMIT: Duration = Duration::from_secs(3);

/// Decides for `machine`, whose own choice is ignored.
pub fn choose(workspace: &Workspace, machine: &Machine, choice: AccelChoice) -> Result<Accel> {
    match choice {
        AccelChoice::Tcg => Ok(Accel::Tcg),
        AccelChoice::Kvm => Ok(Accel::Kvm),
        // Counting instructions is TCG's.
        AccelChoice::Auto if is_given(&machine.extra, "-icount") => Ok(Accel::Tcg),
        AccelChoice::Auto if !opens(Path::new("/dev/kvm")) => Ok(Accel::Tcg),
        AccelChoice::Auto => remembered(workspace, machine),
    }
}

fn opens(device: &Path) -> bool {
    fs::OpenOptions::new().read(true).write(true).open(device).is_ok()
}

/// The remembered answer, or a fresh one.
fn remembered(workspace: &Workspace, machine: &Machine) -> Result<Accel> {
    let memory = workspace.target()?.join("kvm-works");
    let key = key(&machine.qemu);
    let known = fs::read_to_string(&memory).unwrap_or_default();
    if let Some(answer) = known.strip_prefix(&key) {
        return Ok(if answer.trim() == "yes" { Accel::Kvm } else { Accel::Tcg });
    }
    let works = proves_itself(workspace, machine);
    eprintln!(
        "run.sh: /dev/kvm {}; remembered in target/kvm-works",
        if works { "works" } else { "does not bring up a guest, using TCG" }
    );
    fs::write(&memory, format!("{key}{}\n", if works { "yes" } else { "no" }))?;
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}

/// What the answer depends on: this boot of the host and this QEMU.
fn key(qemu: &Path) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let changed = qemu.metadata().and_then(|data| data.modified()).ok();
    let changed = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    format!("{} {} ", boot.trim(), changed.map_or(0, |time| time.as_secs()))
}

/// Whether the image, without a disk, does one command on KVM in time.
fn proves_itself(workspace: &Workspace, machine: &Machine) -> bool {
    let mut probe = machine.clone();
    probe.accel = Accel::Kvm;
    probe.disks.clear();
    probe.module = None;
    probe.gdb = None;
    probe.extra.clear();
    let work = Work::WithoutDisk(vec![b"uptime".to_vec()]);
    probe.command_line = work.words().join(" ");
    let run = Run {
        machine: &probe,
        root: workspace.root(),
        input: Input::None,
        output: &mut std::io::sink(),
        log: &mut std::io::sink(),
        limit: Some(LIMIT),
    };
    run.to_the_end().is_ok_and(|ended| ended.status == 0)
}
