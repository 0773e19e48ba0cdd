//! Forms of inodes in the log.

use holdfast_fs::xfs::Ino;
use holdfast_fs::xfs::ondisk::log_inode::{root_to_fork, root_to_log};

#[test]
fn roots_of_extent_trees_have_another_form_in_the_log() {
    // Three of at most 20 pointers: keys and pointers lie apart in both forms.
    let mut fork = vec![0; 336];
    let room = (fork.len() - 4) / 16;
    fork[..4].copy_from_slice(&[0, 1, 0, 3]);
    for i in 0..3 {
        fork[4 + 8 * i + 7] = 10 + i as u8;
        fork[4 + 8 * (room + i) + 7] = 20 + i as u8;
    }
    let logged = root_to_log(&fork, uuid::Uuid::from_u128(7), Ino(99)).expect("a root");
    assert_eq!(logged.len(), 72 + 3 * 16);
    let mut again = vec![0; 336];
    root_to_fork(&logged, &mut again).expect("a root");
    assert_eq!(again, fork);
    // A smaller fork, and one too small.
    let mut small = vec![0; 4 + 3 * 16];
    root_to_fork(&logged, &mut small).expect("it fits");
    assert_eq!((small[4 + 7], small[4 + 24 + 7]), (10, 20));
    assert!(root_to_fork(&logged, &mut small[..4 + 2 * 16]).is_err());
    assert!(root_to_fork(&logged[..72 + 2 * 16], &mut again).is_err());
}
