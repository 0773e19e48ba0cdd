//! A process: its descriptors, its working directory, its memory.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;

use holdfast_sync::atomic::{AtomicU32, Ordering};
use holdfast_sync::{PerCpuRwLock, RwLock, thread};

use super::AT_FDCWD;
use crate::mm::AddressSpace;
use crate::platform::{Environment, Memory, PageTable};
use crate::vfs::{CharDevice, CharNode, File, Namespace, Node, OpenFlags, Resolved};
use crate::xfs::namespace::NewKind;
use crate::xfs::{FileType, Flags};
use crate::{Error, Result, locks};

/// A descriptor: the number of an open file.
pub type Fd = i32;

/// Most descriptors of a process: Linux's default `RLIMIT_NOFILE`.
const DESCRIPTORS_MAX: usize = 1024;

/// The umask a process starts with.
const UMASK: u32 = 0o022;

/// One processor's reference to an open file, in a cache line of its own: taking and
/// giving back a reference writes no line that another processor uses.
#[repr(align(64))]
pub(super) struct Handle(Arc<File>);

impl Deref for Handle {
    type Target = Arc<File>;
    #[inline]
    fn deref(&self) -> &Arc<File> {
        &self.0
    }
}

struct Descriptor {
    handles: Box<[Arc<Handle>]>,
    close_on_exec: bool,
}

impl Descriptor {
    fn new(file: &Arc<File>, close_on_exec: bool) -> Self {
        let handle = |_| Arc::new(Handle(file.clone()));
        Self { handles: (0..thread::cpu_count()).map(handle).collect(), close_on_exec }
    }
}

/// A process as the calls see it. Its threads share it.
pub struct Process {
    pub(super) ns: Arc<Namespace>,
    pub(super) space: Arc<AddressSpace>,
    pub(super) env: Arc<dyn Environment>,
    files: PerCpuRwLock<Vec<Option<Descriptor>>>,
    cwd: RwLock<Resolved>,
    /// Permission bits that new files do not get.
    umask: AtomicU32,
}

impl Process {
    /// A process at the root of `ns`, with an empty address space seen through `table`,
    /// private pages from `memory`, and descriptors 0, 1 and 2 on `stdio`.
    pub fn new(
        ns: Arc<Namespace>,
        table: Arc<dyn PageTable>,
        memory: Arc<dyn Memory>,
        env: Arc<dyn Environment>,
        stdio: [Arc<dyn CharDevice>; 3],
    ) -> Arc<Self> {
        // An unreadable root is told by the first call that needs it.
        let node = ns.root().unwrap_or(Node::EmptyRoot);
        let cwd = Resolved { node, path: b"/".to_vec() };
        let process = Self {
            ns,
            space: AddressSpace::new(table, memory),
            env,
            files: PerCpuRwLock::new(&locks::FD_TABLE, Vec::new()),
            cwd: RwLock::new(&locks::FD_TABLE, cwd),
            umask: AtomicU32::new(UMASK),
        };
        for device in stdio {
            let node = Node::Device(CharNode::new(device, 5, 1));
            if let Ok(file) = File::open(node, OpenFlags::RDWR) {
                process.install(&file, 0, false).expect("an empty table has room");
            }
        }
        Arc::new(process)
    }
    /// The names this process sees.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.ns
    }
    /// Its memory.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }
    /// Clock and random source.
    pub fn environment(&self) -> &Arc<dyn Environment> {
        &self.env
    }
    /// End: close every descriptor, unmap everything, leave the working directory.
    pub fn exit(&self) {
        self.space.clear();
        let files = core::mem::take(&mut *self.files.write());
        drop(files);
        let nowhere = Resolved { node: Node::EmptyRoot, path: b"/".to_vec() };
        let old = core::mem::replace(&mut *self.cwd.write(), nowhere);
        drop(old);
    }

    // ---- descriptors

    /// The open file of a descriptor.
    #[inline]
    pub(super) fn file(&self, fd: Fd) -> Result<Arc<Handle>> {
        let files = self.files.read();
        let slot = usize::try_from(fd).ok().and_then(|fd| files.get(fd));
        let Some(Some(descriptor)) = slot else { return Err(Error::BadDescriptor) };
        let handles = &descriptor.handles;
        Ok(handles[thread::cpu() % handles.len()].clone())
    }
    /// As [`Process::file`], for what needs more than a place in the tree.
    pub(super) fn opened(&self, fd: Fd) -> Result<Arc<Handle>> {
        let file = self.file(fd)?;
        if file.flags().contains(OpenFlags::PATH) {
            return Err(Error::BadDescriptor);
        }
        Ok(file)
    }
    /// Put a file at the lowest free descriptor from `lowest` on.
    fn install(&self, file: &Arc<File>, lowest: usize, close_on_exec: bool) -> Result<Fd> {
        let descriptor = Descriptor::new(file, close_on_exec);
        let mut files = self.files.write();
        let free = files.iter().skip(lowest).position(Option::is_none).map(|n| n + lowest);
        let fd = free.unwrap_or(files.len().max(lowest));
        if fd >= DESCRIPTORS_MAX {
            return Err(Error::TooManyFiles);
        }
        if fd >= files.len() {
            files.resize_with(fd + 1, || None);
        }
        files[fd] = Some(descriptor);
        Ok(fd as Fd)
    }
    /// Open a file. Linux's `open`; `mode` is the permissions of a file that it makes.
    ///
    /// # Errors
    /// Linux's.
    pub fn open(&self, path: &[u8], flags: OpenFlags, mode: u32) -> Result<Fd> {
        self.openat(AT_FDCWD, path, flags, mode)
    }
    /// Open a file by a path that starts at a directory.
    ///
    /// # Errors
    /// As [`Process::open`].
    pub fn openat(&self, dir: Fd, path: &[u8], flags: OpenFlags, mode: u32) -> Result<Fd> {
        let (node, made) = self.open_node(dir, path, flags, mode)?;
        let truncate = flags.contains(OpenFlags::TRUNC)
            && !made
            && !flags.contains(OpenFlags::PATH)
            && node.file_type() == FileType::Regular;
        let once = OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::TRUNC | OpenFlags::NOCTTY;
        if truncate {
            File::open(node.clone(), OpenFlags::WRONLY)?.truncate(0)?;
        }
        let file = File::open(node, flags.difference(once))?;
        self.install(&file, 0, flags.contains(OpenFlags::CLOEXEC))
    }
    /// What `open` is to open, and whether it was made for that.
    fn open_node(&self, dir: Fd, path: &[u8], flags: OpenFlags, mode: u32) -> Result<(Node, bool)> {
        let follow = !flags.contains(OpenFlags::NOFOLLOW);
        if flags.contains(OpenFlags::PATH) {
            let node = self.resolve_at(dir, path, follow)?.node;
            return Ok((must_be_directory(node, flags)?, false));
        }
        if flags.contains(OpenFlags::TMPFILE) {
            if !flags.writes() {
                return Err(Error::Invalid("a file without a name that cannot be written"));
            }
            let parent = self.resolve_at(dir, path, follow)?.node;
            let create = self.create(mode, NewKind::Regular);
            return Ok((
                self.ns.make_unnamed(&parent, &create, !flags.contains(OpenFlags::EXCL))?,
                true,
            ));
        }
        if !flags.contains(OpenFlags::CREAT) {
            let node = self.resolve_at(dir, path, follow)?.node;
            return Ok((must_be_directory(node, flags)?, false));
        }
        if flags.contains(OpenFlags::DIRECTORY) {
            return Err(Error::Invalid("a directory cannot be made by opening it"));
        }
        let exclusive = flags.contains(OpenFlags::EXCL);
        let base = self.base(dir, path)?;
        let (node, made) = match self.ns.resolve_or_parent(&base, path, follow && !exclusive)? {
            Ok(found) => (found.node, false),
            Err(missing) => self.ns.open_or_make(&missing, &self.create(mode, NewKind::Regular))?,
        };
        match node.file_type() {
            _ if exclusive && !made => Err(Error::Exists),
            FileType::Directory => Err(Error::IsDirectory),
            _ => Ok((node, made)),
        }
    }
    /// Close a descriptor. Never loses data: what is dirty is written back later.
    ///
    /// # Errors
    /// It is not open.
    pub fn close(&self, fd: Fd) -> Result<()> {
        let mut files = self.files.write();
        let slot = usize::try_from(fd).ok().and_then(|fd| files.get_mut(fd));
        let gone = slot.and_then(Option::take).ok_or(Error::BadDescriptor)?;
        drop(files);
        drop(gone);
        Ok(())
    }
    /// Another descriptor, the lowest free, of the same open file.
    ///
    /// # Errors
    /// It is not open; too many are.
    pub fn dup(&self, fd: Fd) -> Result<Fd> {
        self.dup_from(fd, 0)
    }
    /// As [`Process::dup`], the lowest free from `lowest` on (`F_DUPFD`).
    ///
    /// # Errors
    /// As [`Process::dup`]; invalid if `lowest` cannot be a descriptor.
    pub fn dup_from(&self, fd: Fd, lowest: Fd) -> Result<Fd> {
        let file = self.file(fd)?;
        let lowest = usize::try_from(lowest).ok().filter(|n| *n < DESCRIPTORS_MAX);
        self.install(&file, lowest.ok_or(Error::Invalid("no such descriptor can be"))?, false)
    }
    /// Make `to` another descriptor of the same open file; what it was is closed.
    ///
    /// # Errors
    /// `fd` is not open, or `to` cannot be a descriptor.
    pub fn dup2(&self, fd: Fd, to: Fd) -> Result<Fd> {
        let file = self.file(fd)?;
        let slot = usize::try_from(to).ok().filter(|n| *n < DESCRIPTORS_MAX);
        let slot = slot.ok_or(Error::BadDescriptor)?;
        if fd == to {
            return Ok(to);
        }
        let descriptor = Descriptor::new(&file, false);
        let mut files = self.files.write();
        if slot >= files.len() {
            files.resize_with(slot + 1, || None);
        }
        let old = files[slot].replace(descriptor);
        drop(files);
        drop(old);
        Ok(to)
    }
    /// How a file was opened (`F_GETFL`).
    ///
    /// # Errors
    /// It is not open.
    pub fn get_flags(&self, fd: Fd) -> Result<OpenFlags> {
        Ok(self.file(fd)?.flags())
    }
    /// Change `APPEND`, `DIRECT` and their like (`F_SETFL`).
    ///
    /// # Errors
    /// It is not open; an append-only file stays one that appends.
    pub fn set_flags(&self, fd: Fd, flags: OpenFlags) -> Result<()> {
        let file = self.opened(fd)?;
        let turned = (file.flags() ^ flags).contains(OpenFlags::APPEND);
        if turned && file.has_flag(Flags::APPEND) {
            return Err(Error::NotPermitted("the file is append-only"));
        }
        file.set_flags(flags);
        Ok(())
    }
    /// Is a descriptor closed when the process executes another program (`F_GETFD`)?
    ///
    /// # Errors
    /// It is not open.
    pub fn close_on_exec(&self, fd: Fd) -> Result<bool> {
        let files = self.files.read();
        let slot = usize::try_from(fd).ok().and_then(|fd| files.get(fd));
        slot.and_then(Option::as_ref).map(|d| d.close_on_exec).ok_or(Error::BadDescriptor)
    }
    /// Does a person sit at the other end?
    pub fn isatty(&self, fd: Fd) -> bool {
        let device = |file: &Handle| match file.node() {
            Node::Device(device) => device.is_terminal(),
            _ => false,
        };
        self.file(fd).is_ok_and(|file| device(&file))
    }

    // ---- paths

    /// Follow a path from the working directory.
    pub(super) fn resolve(&self, path: &[u8], follow: bool) -> Result<Resolved> {
        self.resolve_at(AT_FDCWD, path, follow)
    }
    /// Follow a path from an open directory.
    pub(super) fn resolve_at(&self, dir: Fd, path: &[u8], follow: bool) -> Result<Resolved> {
        self.ns.resolve(&self.base(dir, path)?, path, follow)
    }
    /// Where a path starts that is given with a directory.
    pub(super) fn base(&self, dir: Fd, path: &[u8]) -> Result<Resolved> {
        if dir == AT_FDCWD || path.first() == Some(&b'/') {
            return Ok(self.cwd.read().clone());
        }
        let file = self.file(dir)?;
        if file.node().file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        Ok(Resolved { node: file.node().clone(), path: Vec::new() })
    }
    pub(super) fn umask_bits(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }
    pub(super) fn swap_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask, Ordering::Relaxed)
    }
    /// Go to another working directory.
    ///
    /// # Errors
    /// Those of path lookup; not a directory.
    pub fn chdir(&self, path: &[u8]) -> Result<()> {
        let to = self.resolve(path, true)?;
        if to.node.file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        let old = core::mem::replace(&mut *self.cwd.write(), to);
        drop(old);
        Ok(())
    }
    /// The working directory's path.
    pub fn getcwd(&self) -> Vec<u8> {
        self.cwd.read().path.clone()
    }
}

fn must_be_directory(node: Node, flags: OpenFlags) -> Result<Node> {
    if flags.contains(OpenFlags::DIRECTORY) && node.file_type() != FileType::Directory {
        return Err(Error::NotDirectory);
    }
    Ok(node)
}
