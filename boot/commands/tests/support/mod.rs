//! A guest on the host: an image file, mounted by the storage stack, and its commands.

#![allow(dead_code)] // every test uses another part of it

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_commands::host::Host;
use holdfast_commands::{Context, run, script};
use holdfast_fs::syscall::Process;
use holdfast_fs::vfs::{CharDevice, CharNode};

/// A descriptor whose bytes are kept, and one whose bytes were given.
#[derive(Default)]
pub struct Pipe {
    pub bytes: Mutex<Vec<u8>>,
    pub terminal: AtomicBool,
}

impl CharDevice for Pipe {
    fn read(&self, buffer: &mut [u8]) -> holdfast_fs::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap();
        let n = buffer.len().min(bytes.len());
        for (to, from) in buffer.iter_mut().zip(bytes.drain(..n)) {
            *to = from;
        }
        Ok(n)
    }
    fn is_terminal(&self) -> bool {
        self.terminal.load(Ordering::Relaxed)
    }
    fn write(&self, buffer: &[u8]) -> holdfast_fs::Result<usize> {
        self.bytes.lock().unwrap().extend_from_slice(buffer);
        Ok(buffer.len())
    }
}

/// What a command left.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub status: u8,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }
}

/// Run a command of the host in `dir`, with the guest's settings: none, English, UTC.
pub fn on_host(command: &mut Command, dir: &Path) -> Output {
    command
        .current_dir(dir)
        .env_clear()
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|e| panic!("{:?} is needed for this test: {e}", command.get_program()))
}

/// What the guest's `program` is to say where the host's said this.
pub fn in_the_guests_words(errors: &[u8], program: &str) -> String {
    let said = String::from_utf8_lossy(errors).replace(" --help'", "'");
    said.replace(&format!("Try '{program}'"), &format!("Try 'help {program}'"))
}

/// A mounted image and a process on it.
pub struct Guest {
    pub process: Arc<Process>,
    pub host: Arc<Host>,
    pub stdin: Arc<Pipe>,
    pub stdout: Arc<Pipe>,
    pub stderr: Arc<Pipe>,
}

impl Guest {
    pub fn mount(image: &Path, cache_pages: Option<u64>, readonly: bool) -> Self {
        let host = Host::mount(image, readonly, 64 << 10, cache_pages)
            .unwrap_or_else(|e| panic!("the image mounts: {e}"));
        let [stdin, stdout, stderr] = [(); 3].map(|()| Arc::new(Pipe::default()));
        host.namespace().register("console", CharNode::new(stdout.clone(), 5, 1));
        let process = host.process([stdin.clone(), stdout.clone(), stderr.clone()]);
        Self { process, host, stdin, stdout, stderr }
    }
    fn finish(&self, status: u8) -> Ran {
        let take = |pipe: &Pipe| std::mem::take(&mut *pipe.bytes.lock().unwrap());
        Ran { status, out: take(&self.stdout), err: take(&self.stderr) }
    }
    pub fn context(&self) -> Context {
        Context::new(self.process.clone(), self.host.clone())
    }
    pub fn run(&self, argv: &[&str]) -> Ran {
        let argv: Vec<Vec<u8>> = argv.iter().map(|w| w.as_bytes().to_vec()).collect();
        self.run_bytes(&argv)
    }
    pub fn run_bytes(&self, argv: &[Vec<u8>]) -> Ran {
        let status = run(&mut self.context(), argv);
        self.finish(status)
    }
    pub fn script(&self, text: &str) -> Ran {
        let status = script::run_script(&mut self.context(), text.as_bytes());
        self.finish(status)
    }
    /// The prompt, fed with these bytes.
    pub fn shell(&self, typed: &[u8], terminal: bool) -> Ran {
        self.stdin.bytes.lock().unwrap().extend_from_slice(typed);
        self.stdin.terminal.store(terminal, Ordering::Relaxed);
        let status = holdfast_commands::shell::interact(&mut self.context());
        self.finish(status)
    }
    pub fn unmount(self) {
        self.process.exit();
        self.host.unmount().expect("it unmounts");
    }
}

/// A directory for one test's files, emptied first.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/tmp")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Run a tool of the host that must be there and succeed.
pub fn tool(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        // mkfs.xfs makes small file systems for its own tests only.
        .envs([("TEST_DIR", "x"), ("TEST_DEV", "y"), ("QA_CHECK_FS", "1")])
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    output.stdout
}

/// An image of `size` bytes made by mkfs.xfs from a prototype file, on a ground of 0xEE.
pub fn image(dir: &Path, size: usize, prototype: &str, options: &[&str]) -> PathBuf {
    let (image, proto) = (dir.join("disk.img"), dir.join("prototype"));
    std::fs::write(&image, vec![0xEE; size]).unwrap();
    std::fs::write(&proto, prototype).unwrap();
    let (proto, path) = (proto.to_str().unwrap(), image.to_str().unwrap());
    let mut args = vec!["-q", "-K", "-f", "-p", proto];
    args.extend(options);
    args.push(path);
    tool("mkfs.xfs", &args);
    image
}
