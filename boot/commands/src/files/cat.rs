//! `cat`.

use super::{Input, read_pieces};
use crate::context::{Context, Status};
use crate::options;

/// `cat [FILE|-]...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let mut parsed = match options::parse(argv, "u", &[]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    if parsed.operands.is_empty() {
        parsed.operands.push(b"-");
    }
    let mut status = 0;
    let process = cx.process.clone();
    for path in parsed.operands {
        let result = Input::open(&process, path).and_then(|input| {
            read_pieces(&process, input.fd(), &mut |piece| {
                cx.bytes(piece);
                !cx.output_failed()
            })
        });
        if let Err(e) = result {
            cx.flush();
            cx.failed(path, &e);
            status = 1;
        }
    }
    status
}
