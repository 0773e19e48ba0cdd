//! `memcpy`, `memmove`, `memset`, `memcmp`: what the compiler and `core` call.
//!
//! Written for an emulator that translates each instruction, and good on hardware: long
//! copies are `rep movsq` (a 4 KiB copy is about 520 instructions, and TCG does it in half
//! the time of SSE registers, which it keeps in memory). No `rep movsb`, which TCG executes
//! a byte at a time, and no byte loops. Filling goes through SSE registers, 256 bytes a
//! turn. Short and odd lengths are done with two overlapping moves.
//!
//! TCG's cache of translated addresses has one place for pages 1 MiB apart (256 entries,
//! of a page each): a copy between two such pages that loads and stores by turns would
//! change it at each step. It goes in blocks of 256 bytes, through all sixteen registers.

use core::arch::global_asm;

/// 256 bytes from `rsi + rcx` to `rdi + rcx`: all loads, then all stores.
macro_rules! move_256_bytes {
    () => {
        r#"
    movups xmm0, [rsi + rcx + 0]
    movups xmm1, [rsi + rcx + 16]
    movups xmm2, [rsi + rcx + 32]
    movups xmm3, [rsi + rcx + 48]
    movups xmm4, [rsi + rcx + 64]
    movups xmm5, [rsi + rcx + 80]
    movups xmm6, [rsi + rcx + 96]
    movups xmm7, [rsi + rcx + 112]
    movups xmm8, [rsi + rcx + 128]
    movups xmm9, [rsi + rcx + 144]
    movups xmm10, [rsi + rcx + 160]
    movups xmm11, [rsi + rcx + 176]
    movups xmm12, [rsi + rcx + 192]
    movups xmm13, [rsi + rcx + 208]
    movups xmm14, [rsi + rcx + 224]
    movups xmm15, [rsi + rcx + 240]
    movups [rdi + rcx + 0], xmm0
    movups [rdi + rcx + 16], xmm1
    movups [rdi + rcx + 32], xmm2
    movups [rdi + rcx + 48], xmm3
    movups [rdi + rcx + 64], xmm4
    movups [rdi + rcx + 80], xmm5
    movups [rdi + rcx + 96], xmm6
    movups [rdi + rcx + 112], xmm7
    movups [rdi + rcx + 128], xmm8
    movups [rdi + rcx + 144], xmm9
    movups [rdi + rcx + 160], xmm10
    movups [rdi + rcx + 176], xmm11
    movups [rdi + rcx + 192], xmm12
    movups [rdi + rcx + 208], xmm13
    movups [rdi + rcx + 224], xmm14
    movups [rdi + rcx + 240], xmm15
"#
    };
}

global_asm!(
    r#"
.section .text.memory,"ax",@progbits
.globl memcpy
memcpy:
    mov rax, rdi
    cmp rdx, 64
    ja 5f
holdfast_copy_short:               /* up to 64 bytes, overlapping or not: load all, store all */
    cmp edx, 16
    jb 2f
    cmp edx, 32
    ja 1f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
1:  movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    ret
2:  cmp edx, 8
    jb 3f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
3:  cmp edx, 4
    jb 4f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
4:  test edx, edx
    je 9f
    mov r10d, edx
    shr r10d, 1
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + r10]
    movzx r9d, byte ptr [rsi + rdx - 1]
    mov [rdi], cl
    mov [rdi + r10], r8b
    mov [rdi + rdx - 1], r9b
9:  ret
5:  cmp rdx, 256
    jb 7f
    mov rcx, rdi
    xor rcx, rsi
    test ecx, 0xff000
    je 12f
    mov rcx, rdx
    shr rcx, 3
    rep movsq
    and edx, 7
    je 9b
    mov rcx, [rsi + rdx - 8]       /* the last 8 bytes overlap what is done already */
    mov [rdi + rdx - 8], rcx
    ret
12: mov rcx, rdx
    and rcx, -256
    add rsi, rcx
    add rdi, rcx
    neg rcx
6:
"#,
    move_256_bytes!(),
    r#"
    add rcx, 256
    jne 6b
    and edx, 255
    je 9b
7:  lea r8, [rdx - 64]             /* the last 64 bytes overlap what is done already */
    xor ecx, ecx
    test r8, r8
    jle 9f
8:
    movups xmm0, [rsi + rcx + 0]
    movups xmm1, [rsi + rcx + 16]
    movups xmm2, [rsi + rcx + 32]
    movups xmm3, [rsi + rcx + 48]
    movups [rdi + rcx + 0], xmm0
    movups [rdi + rcx + 16], xmm1
    movups [rdi + rcx + 32], xmm2
    movups [rdi + rcx + 48], xmm3
    add rcx, 64
    cmp rcx, r8
    jl 8b
9:
    movups xmm0, [rsi + r8 + 0]
    movups xmm1, [rsi + r8 + 16]
    movups xmm2, [rsi + r8 + 32]
    movups xmm3, [rsi + r8 + 48]
    movups [rdi + r8 + 0], xmm0
    movups [rdi + r8 + 16], xmm1
    movups [rdi + r8 + 32], xmm2
    movups [rdi + r8 + 48], xmm3
    ret

.globl memmove
memmove:
    mov rax, rdi
    cmp rdx, 64
    jbe holdfast_copy_short
    mov rcx, rdi
    sub rcx, rsi                   /* how far the destination lies ahead, modulo 2^64 */
    cmp rcx, rdx
    jb 3f                          /* ahead and overlapping: backwards */
    neg rcx
    cmp rcx, rdx
    jae memcpy
1:                                 /* behind and overlapping: forwards, no overlapping tail */
    movups xmm0, [rsi + 0 + 0]
    movups xmm1, [rsi + 0 + 16]
    movups xmm2, [rsi + 0 + 32]
    movups xmm3, [rsi + 0 + 48]
    movups [rdi + 0 + 0], xmm0
    movups [rdi + 0 + 16], xmm1
    movups [rdi + 0 + 32], xmm2
    movups [rdi + 0 + 48], xmm3
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    cmp rdx, 64
    ja 1b
    jmp holdfast_copy_short
3:
    movups xmm0, [rsi + rdx - 64 + 0]
    movups xmm1, [rsi + rdx - 64 + 16]
    movups xmm2, [rsi + rdx - 64 + 32]
    movups xmm3, [rsi + rdx - 64 + 48]
    movups [rdi + rdx - 64 + 0], xmm0
    movups [rdi + rdx - 64 + 16], xmm1
    movups [rdi + rdx - 64 + 32], xmm2
    movups [rdi + rdx - 64 + 48], xmm3
    sub rdx, 64
    cmp rdx, 64
    ja 3b
    jmp holdfast_copy_short

.globl memset
memset:
    mov rax, rdi
    movzx esi, sil
    movabs rcx, 0x0101010101010101
    imul rsi, rcx
    cmp rdx, 16
    jb 5f
    movq xmm0, rsi
    punpcklqdq xmm0, xmm0
    cmp rdx, 64
    ja 1f
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm0
    cmp edx, 32
    jbe 9f
    movups [rdi + 16], xmm0
    movups [rdi + rdx - 32], xmm0
9:  ret
1:  cmp rdx, 256
    jb 3f
    mov rcx, rdx
    and rcx, -256
    add rdi, rcx
    neg rcx
2:
    movups [rdi + rcx + 0], xmm0
    movups [rdi + rcx + 16], xmm0
    movups [rdi + rcx + 32], xmm0
    movups [rdi + rcx + 48], xmm0
    movups [rdi + rcx + 64], xmm0
    movups [rdi + rcx + 80], xmm0
    movups [rdi + rcx + 96], xmm0
    movups [rdi + rcx + 112], xmm0
    movups [rdi + rcx + 128], xmm0
    movups [rdi + rcx + 144], xmm0
    movups [rdi + rcx + 160], xmm0
    movups [rdi + rcx + 176], xmm0
    movups [rdi + rcx + 192], xmm0
    movups [rdi + rcx + 208], xmm0
    movups [rdi + rcx + 224], xmm0
    movups [rdi + rcx + 240], xmm0
    add rcx, 256
    jne 2b
    and edx, 255
    je 9b
3:  lea r8, [rdx - 64]
    xor ecx, ecx
    test r8, r8
    jle 9f
4:
    movups [rdi + rcx + 0], xmm0
    movups [rdi + rcx + 16], xmm0
    movups [rdi + rcx + 32], xmm0
    movups [rdi + rcx + 48], xmm0
    add rcx, 64
    cmp rcx, r8
    jl 4b
9:
    movups [rdi + r8 + 0], xmm0
    movups [rdi + r8 + 16], xmm0
    movups [rdi + r8 + 32], xmm0
    movups [rdi + r8 + 48], xmm0
    ret
5:  cmp edx, 8
    jb 6f
    mov [rdi], rsi
    mov [rdi + rdx - 8], rsi
    ret
6:  cmp edx, 4
    jb 7f
    mov [rdi], esi
    mov [rdi + rdx - 4], esi
    ret
7:  test edx, edx
    je 9f
    mov ecx, edx
    shr ecx, 1
    mov [rdi], sil
    mov [rdi + rcx], sil
    mov [rdi + rdx - 1], sil
9:  ret

.globl memcmp
.globl bcmp
memcmp:
bcmp:
    cmp rdx, 16
    jb 5f
    xor ecx, ecx
    lea r8, [rdx - 64]
    test r8, r8
    jl 2f
1:  movups xmm0, [rdi + rcx]
    movups xmm1, [rsi + rcx]
    movups xmm2, [rdi + rcx + 16]
    movups xmm3, [rsi + rcx + 16]
    movups xmm4, [rdi + rcx + 32]
    movups xmm5, [rsi + rcx + 32]
    movups xmm6, [rdi + rcx + 48]
    movups xmm7, [rsi + rcx + 48]
    pcmpeqb xmm0, xmm1
    pcmpeqb xmm2, xmm3
    pcmpeqb xmm4, xmm5
    pcmpeqb xmm6, xmm7
    pand xmm0, xmm2
    pand xmm4, xmm6
    pand xmm0, xmm4
    pmovmskb eax, xmm0
    cmp eax, 0xffff
    jne 2f                         /* somewhere in these 64: the 16-byte loop finds it */
    add rcx, 64
    cmp rcx, r8
    jle 1b
2:  lea r8, [rdx - 16]
3:  cmp rcx, r8
    cmovg rcx, r8                  /* the last 16, overlapping bytes known to be equal */
    movups xmm0, [rdi + rcx]
    movups xmm1, [rsi + rcx]
    pcmpeqb xmm0, xmm1
    pmovmskb eax, xmm0
    xor eax, 0xffff
    jne 4f
    add rcx, 16
    cmp rcx, rdx
    jb 3b
    xor eax, eax
    ret
4:  bsf eax, eax
    add rcx, rax
    movzx eax, byte ptr [rdi + rcx]
    movzx edx, byte ptr [rsi + rcx]
    sub eax, edx
    ret
5:  cmp edx, 8
    jb 6f
    mov rax, [rdi]
    mov rcx, [rsi]
    cmp rax, rcx
    jne 8f
    mov rax, [rdi + rdx - 8]
    mov rcx, [rsi + rdx - 8]
    cmp rax, rcx
    jne 8f
    xor eax, eax
    ret
6:  cmp edx, 4
    jb 7f
    mov eax, [rdi]
    mov ecx, [rsi]
    cmp eax, ecx
    jne 8f
    mov eax, [rdi + rdx - 4]
    mov ecx, [rsi + rdx - 4]
    cmp eax, ecx
    jne 8f
    xor eax, eax
    ret
7:  xor eax, eax
    test edx, edx
    je 9f
    movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jne 9f
    mov r10d, edx
    shr r10d, 1
    movzx eax, byte ptr [rdi + r10]
    movzx ecx, byte ptr [rsi + r10]
    sub eax, ecx
    jne 9f
    movzx eax, byte ptr [rdi + rdx - 1]
    movzx ecx, byte ptr [rsi + rdx - 1]
    sub eax, ecx
9:  ret
8:  bswap rax                      /* first byte in memory becomes the most significant */
    bswap rcx
    cmp rax, rcx
    sbb eax, eax
    or eax, 1
    ret

.globl strlen
strlen:
    xor eax, eax
1:  cmp byte ptr [rdi + rax], 0
    je 2f
    inc rax
    jmp 1b
2:  ret
.text
"#
);

/// `core` and `alloc` are built for unwinding and name it; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding")
}
