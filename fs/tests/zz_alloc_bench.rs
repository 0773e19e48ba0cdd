mod alloc_support;
mod xfs_support;
use alloc_support::Scene;
use holdfast_fs::xfs::alloc::{self, AgReserve, AllocRequest, Target, Use};
use holdfast_fs::xfs::types::{AgBlock, AgNumber};
#[test]
fn bench() {
    let n: u32 = std::env::var("N").unwrap().parse().unwrap();
    let mode: u32 = std::env::var("MODE").unwrap().parse().unwrap();
    let scene = Scene::new("bench", 256, &["-d", "agcount=4", "-m", "rmapbt=0"]);
    let mount = scene.mount.clone();
    let owner = scene.owner();
    let near = mount.geometry().fs_block(AgNumber(1), AgBlock(3000));
    for i in 0..n {
        let mut tp = mount.begin(mount.reservations().write, 1).unwrap();
        if mode == 0 { tp.cancel(); continue; }
        let want = AllocRequest::new(Target::Near(near), 1, owner, Use::Metadata);
        let got = alloc::allocate(&mut tp, &want).unwrap().unwrap();
        tp.commit(&mut []).unwrap();
        if mode == 2 {
            let mut tp = mount.begin(mount.reservations().write, 1).unwrap();
            alloc::free(&mut tp, got.block, 1, &owner, AgReserve::None).unwrap();
            tp.commit(&mut []).unwrap();
        }
        if i % 1000 == 0 { mount.log().unwrap().force_all().unwrap(); }
    }
}
