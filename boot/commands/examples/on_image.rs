//! Run one guest command on an image file, on the host: `on_image [-p PAGES] IMAGE COMMAND [ARG]...`

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::path::Path;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let pages = (args.first().map(String::as_str) == Some("-p")).then(|| {
        args.remove(0);
        args.remove(0).parse().expect("pages is a number")
    });
    let readonly = args.first().map(String::as_str) == Some("-r");
    if readonly {
        args.remove(0);
    }
    let guest = support::Guest::mount(Path::new(&args[0]), pages, readonly);
    let words: Vec<&str> = args[1..].iter().map(String::as_str).collect();
    let ran = if words.first() == Some(&"script") {
        guest.script(&std::fs::read_to_string(words[1]).expect("the script is there"))
    } else {
        guest.run(&words)
    };
    guest.unmount();
    std::io::stdout().write_all(&ran.out).expect("output goes out");
    std::io::stderr().write_all(&ran.err).expect("diagnostics go out");
    std::process::exit(ran.status.into());
}
