//! QEMU's command line for one guest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cli::{Firmware, MachineType};
use crate::disk::{Cache, Disk};
use crate::process;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// QEMU's translator.
    Tcg,
    /// The host's virtualisation.
    Kvm,
}

/// Everything that makes one guest.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The emulator.
    pub qemu: PathBuf,
    /// The machine to emulate.
    pub kind: MachineType,
    /// What runs before the image on q35.
    pub firmware: Firmware,
    /// What executes it.
    pub accel: Accel,
    /// Processors.
    pub smp: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Disks in order.
    pub disks: Vec<Disk>,
    /// How the host caches them.
    pub cache: Cache,
    /// Whether they are given read-only.
    pub readonly: bool,
    /// The bootable image.
    pub kernel: PathBuf,
    /// Words for the image.
    pub command_line: String,
    /// A file handed to the image as its first module.
    pub module: Option<PathBuf>,
    /// The TCP port on which QEMU waits for a debugger.
    pub gdb: Option<u16>,
    /// The user's own arguments.
    pub extra: Vec<String>,
}

impl Machine {
    /// The command that starts this guest: its console is QEMU's standard
    /// input and output, its log QEMU's standard error.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.qemu);
        command.args(self.arguments());
        command
    }

    /// The whole command line, quoted for a shell.
    pub fn shell_line(&self) -> Result<String> {
        let words: Vec<String> = std::iter::once(self.qemu.clone().into_os_string())
            .chain(self.arguments())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        Ok(shlex::try_join(words.iter().map(String::as_str))?)
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments { words: Vec::new(), extra: &self.extra };
        args.add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        self.platform(&mut args);
        // The log is line after line of text; the console is binary.
        args.add(&["-chardev", "file,id=log,path=/dev/stderr", "-serial", "chardev:log"]);
        args.add(&["-chardev", "stdio,id=stdin,signal=off,mux=off"]);
        args.add(&["-chardev", "file,id=stdout,path=/dev/stdout"]);
        args.add(&["-device", self.device("virtio-serial-pci", "virtio-serial-device")]);
        // Ports, not a console: a port makes the guest wait for a slow reader,
        // a console forgets what the reader cannot take at once.
        args.add(&["-device", "virtserialport,chardev=stdin,name=stdin"]);
        args.add(&["-device", "virtserialport,chardev=stdout,name=stdout"]);
        args.add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        self.disks(&mut args);
        args.add(&["-kernel"]).path(&self.kernel);
        args.add(&["-append", &self.command_line]);
        if let Some(module) = &self.module {
            args.add(&["-initrd"]).path(module);
        }
        if let Some(port) = self.gdb {
            args.add(&["-S", "-gdb", &format!("tcp:127.0.0.1:{port}")]);
        }
        args.words.extend(self.extra.iter().map(OsString::from));
        args.words
    }

    fn device<'a>(&self, pci: &'a str, mmio: &'a str) -> &'a str {
        match self.kind {
            MachineType::Q35 => pci,
            MachineType::Microvm => mmio,
        }
    }

    fn platform(&self, args: &mut Arguments<'_>) {
        match self.kind {
            MachineType::Q35 => {
                args.unless_given(&["-M", "-machine"], "q35");
                if self.firmware != Firmware::Seabios
                    && let Some(rom) = qboot(&self.qemu, self.firmware)
                {
                    args.unless_given(&["-bios"], &rom);
                }
            }
            MachineType::Microvm => {
                args.unless_given(&["-M", "-machine"], "microvm");
                args.add(&["-global", "virtio-mmio.force-legacy=false"]);
            }
        }
        // No thread= for TCG: several threads are its default, and -icount
        // forbids naming them.
        let accel = match self.accel {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
        };
        args.unless_given(&["-accel", "-enable-kvm"], accel);
        args.unless_given(&["-cpu"], "max");
        args.unless_given(&["-smp"], &self.smp.to_string());
        args.unless_given(&["-m"], &memory_words(self.memory_bytes));
    }

    fn disks(&self, args: &mut Arguments<'_>) {
        for (index, disk) in self.disks.iter().enumerate() {
            let id = format!("disk{index}");
            if let Some(drive) = disk.drive(&id, self.cache, self.readonly) {
                args.add(&["-drive", &drive]);
            }
            let device = self.device("virtio-blk-pci", "virtio-blk-device");
            let mut device = format!("{device},drive={},num-queues={}", disk.node(&id), self.smp);
            // A thread for the disk's own I/O needs notifiers that virtio-mmio
            // lacks under TCG.
            if self.kind == MachineType::Q35 {
                args.add(&["-object", &format!("iothread,id=io{index}")]);
                device.push_str(&format!(",iothread=io{index}"));
            }
            args.add(&["-device", &device]);
        }
    }
}

/// Arguments under construction; the user's own win over ours.
struct Arguments<'a> {
    words: Vec<OsString>,
    extra: &'a [String],
}

impl Arguments<'_> {
    fn add(&mut self, words: &[&str]) -> &mut Self {
        self.words.extend(words.iter().map(OsString::from));
        self
    }

    fn path(&mut self, path: &Path) {
        self.words.push(path.into());
    }

    /// Adds `names[0] value` unless the user gives an option of that meaning.
    fn unless_given(&mut self, names: &[&str], value: &str) {
        if !names.iter().any(|name| is_given(self.extra, name)) {
            self.add(&[names[0], value]);
        }
    }
}

/// Whether QEMU arguments contain an option; QEMU takes one dash or two.
pub fn is_given(words: &[String], option: &str) -> bool {
    words.iter().any(|word| word == option || word.strip_prefix('-') == Some(option))
}

/// Bytes as QEMU's `-m` takes them.
fn memory_words(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes.is_multiple_of(MIB) {
        format!("{}M", bytes / MIB)
    } else {
        format!("{}k", bytes.div_ceil(1024))
    }
}

/// The value for `-bios` that selects qboot: a path where the usual
/// directories or QEMU's own list have it. Asked for by name, it is left to
/// QEMU to complain when it is not there.
fn qboot(qemu: &Path, firmware: Firmware) -> Option<String> {
    const ROM: &str = "qboot.rom";
    let usual = ["/usr/share/qemu", "/usr/local/share/qemu"].map(PathBuf::from);
    let in_data = |directory: PathBuf| directory.join(ROM).is_file();
    if usual.into_iter().any(in_data) {
        return Some(ROM.into());
    }
    let listed = process::output(Command::new(qemu).args(["-L", "help"])).unwrap_or_default();
    let found = String::from_utf8_lossy(&listed).lines().map(PathBuf::from).any(in_data);
    (found || firmware == Firmware::Qboot).then(|| ROM.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(extra: &[&str]) -> Machine {
        Machine {
            qemu: "qemu-system-x86_64".into(),
            kind: MachineType::Q35,
            firmware: Firmware::Seabios,
            accel: Accel::Tcg,
            smp: 2,
            memory_bytes: 64 << 20,
            disks: vec![Disk::Node("faulty".into())],
            cache: Cache::None,
            readonly: false,
            kernel: "holdfast".into(),
            command_line: "log=info cmd=6c73".into(),
            module: None,
            gdb: None,
            extra: extra.iter().map(|word| (*word).into()).collect(),
        }
    }

    #[test]
    fn the_users_arguments_win() {
        let line = machine(&["-cpu", "qemu64", "--accel", "tcg,one-insn-per-tb=on"]).shell_line();
        let line = line.unwrap();
        assert!(!line.contains("max") && line.contains("-m 64M"), "{line}");
        assert_eq!(line.matches("accel").count(), 1, "{line}");
    }

    #[test]
    fn the_line_can_be_pasted() {
        let line = machine(&[]).shell_line().unwrap();
        assert!(line.contains("-append 'log=info cmd=6c73'"), "{line}");
        assert!(line.contains("drive=faulty,num-queues=2"), "{line}");
    }

    #[test]
    fn nothing_that_icount_forbids() {
        let line = machine(&["-icount", "shift=0,sleep=on"]).shell_line().unwrap();
        assert!(line.contains("-accel tcg -cpu"), "{line}");
    }

    #[test]
    fn memory_in_whole_units() {
        assert_eq!(memory_words(16 << 20), "16M");
        assert_eq!(memory_words((16 << 20) + 1), "16385k");
    }
}
