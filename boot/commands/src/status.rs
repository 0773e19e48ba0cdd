//! Commands that show or steer the kernel: `ps`, `free`, `uptime`, `dmesg`, `mount`,
//! `sync`, `drop_caches`.

use crate::context::{Context, Status};
use crate::{date, options, out, text};

/// `ps`: all threads.
pub fn ps(cx: &mut Context, _: &[&[u8]]) -> Status {
    let threads = cx.system.threads();
    out!(cx, "  TID S CPU PRI        SWITCHES     TIME NAME             WAITS-FOR\n");
    for t in threads {
        let (s, ms) = (t.run_ns / 1_000_000_000, t.run_ns / 1_000_000 % 1000);
        out!(
            cx,
            "{:>5} {} {:>3} {:<8} {:>10} {s:>4}.{ms:03} ",
            t.id,
            t.state,
            t.cpu,
            t.priority,
            t.switches
        );
        let line = alloc::format!("{:<16} {}", t.name, t.waits_for);
        out!(cx, "{}\n", line.trim_end());
    }
    0
}

/// `free [-b|-k|-m|-h]`
pub fn free(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "bkmh", &[("human", b'h')]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let unit = parsed.options.last().map_or(b'k', |o| o.0);
    let show = |kib: u64| match unit {
        b'b' => alloc::format!("{}", kib << 10),
        b'm' => alloc::format!("{}", kib >> 10),
        b'h' => text::human(kib << 10, "i"),
        _ => alloc::format!("{kib}"),
    };
    let m = cx.system.memory();
    let cached = m.cached_kib + m.buffers_kib;
    let used = m.total_kib.saturating_sub(m.free_kib + cached);
    let available = m.free_kib + cached.saturating_sub(m.dirty_kib + m.writeback_kib);
    out!(cx, "               total        used        free      shared  buff/cache   available\n");
    out!(cx, "Mem:    ");
    for kib in [m.total_kib, used, m.free_kib, 0, cached, available] {
        out!(cx, "{:>12}", show(kib));
    }
    out!(cx, "\nHeap:   ");
    for kib in [m.heap_total_kib, m.heap_used_kib, m.heap_total_kib.saturating_sub(m.heap_used_kib)]
    {
        out!(cx, "{:>12}", show(kib));
    }
    out!(cx, "\nCache:  {:>12}{:>12}", show(m.cache_limit_kib), show(m.cached_kib));
    out!(cx, "   dirty {} writeback {}", show(m.dirty_kib), show(m.writeback_kib));
    out!(cx, "   background limit {}", show(m.background_limit_kib));
    out!(cx, " dirty limit {}\n", show(m.dirty_limit_kib));
    0
}

/// `uptime`
pub fn uptime(cx: &mut Context, _: &[&[u8]]) -> Status {
    let now =
        date::Date::from_seconds((cx.process.environment().wall_clock_ns() / 1_000_000_000) as i64);
    let up = cx.system.uptime_ns();
    let seconds = up / 1_000_000_000;
    out!(cx, " {:02}:{:02}:{:02} up ", now.hour, now.minute, now.second);
    match seconds / 3600 {
        0 => out!(cx, "{} min", seconds / 60),
        hours => out!(cx, "{hours}:{:02}", seconds / 60 % 60),
    }
    out!(cx, " ({seconds}.{:03} s), {} cpus\n", up / 1_000_000 % 1000, cx.system.cpus());
    for (mark, ns) in cx.system.boot_marks() {
        out!(cx, "{:>9}.{:03} ms  {mark}\n", ns / 1_000_000, ns / 1000 % 1000);
    }
    0
}

/// `dmesg`
pub fn dmesg(cx: &mut Context, _: &[&[u8]]) -> Status {
    let system = cx.system.clone();
    system.log(&mut |piece| cx.bytes(piece));
    0
}

/// `mount`: what is mounted, with its features below.
pub fn mount(cx: &mut Context, argv: &[&[u8]]) -> Status {
    if argv.len() > 1 {
        return cx
            .usage(format_args!("the root is mounted by the boot; this command only shows"), 1);
    }
    for m in cx.system.mounts() {
        out!(cx, "{} on {} type {} ({})\n", m.source, m.target, m.fs_type, m.options);
        let width = m.features.iter().map(|f| f.0.len()).max().unwrap_or(0);
        for (name, value) in &m.features {
            out!(cx, "    {name:<width$}  {value}\n");
        }
    }
    0
}

/// `sync`
pub fn sync(cx: &mut Context, _: &[&[u8]]) -> Status {
    cx.process.sync();
    0
}

/// `drop_caches`
pub fn drop_caches(cx: &mut Context, _: &[&[u8]]) -> Status {
    match cx.system.drop_caches() {
        Ok(_) => 0,
        Err(e) => {
            let reason = crate::context::explain(&e);
            cx.error(format_args!("{reason}"));
            1
        }
    }
}
