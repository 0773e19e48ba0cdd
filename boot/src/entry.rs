//! The first instructions: from PVH's 32-bit entry to Rust in the upper half.
//!
//! QEMU enters in 32-bit protected mode without paging, `ebx` pointing to the start
//! info. The boot tables map the first 4 GiB three times: one to one (until Rust's own
//! tables are loaded), as the direct map, and (its first GiB) as the image.

use core::arch::global_asm;

global_asm!(
    r#"
.section .note.pvh,"a",@note
.balign 4
.long 4, 8, 18                         /* name and descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
.asciz "Xen"
.quad holdfast_pvh_start

.section .boot.text,"ax",@progbits
.code32
.globl holdfast_pvh_start
holdfast_pvh_start:
    cli
    cld
    mov edi, ebx                       /* start info: first argument */
    rdtsc
    mov esi, eax                       /* time stamp: second argument */
    mov ebp, edx
    mov esp, offset boot_stack32_top
    mov eax, cr4
    or eax, 0x6a0                      /* PAE PGE OSFXSR OSXMMEXCPT */
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900                      /* LME NXE */
    wrmsr
    mov eax, 0x80010033                /* PG WP NE ET MP PE */
    mov cr0, eax
    lgdt [boot_gdtr]
    ljmp 0x08, offset boot64
.code64
boot64:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov esi, esi
    shl rbp, 32
    or rsi, rbp
    mov edi, edi
    movabs rsp, offset holdfast_boot_stack_top
    xor ebp, ebp
    movabs rax, offset {main}
    call rax
    ud2

.section .boot.data,"aw",@progbits
.balign 4096
boot_pml4:
    .quad boot_pdpt + 3
    .fill 255, 8, 0
    .quad boot_pdpt + 3
    .fill 254, 8, 0
    .quad boot_pdpt_image + 3
boot_pdpt:
    .quad boot_pd + 3
    .quad boot_pd + 0x1003
    .quad boot_pd + 0x2003
    .quad boot_pd + 0x3003
    .fill 508, 8, 0
boot_pdpt_image:
    .fill 510, 8, 0
    .quad boot_pd + 3
    .quad 0
boot_pd:
    .set page, 0
    .rept 2048
    .quad (page << 21) + 0x83
    .set page, page + 1
    .endr
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff           /* 08: 64-bit code */
    .quad 0x00cf93000000ffff           /* 10: data */
    .quad 0x00cf9b000000ffff           /* 18: 32-bit code */
boot_gdtr:
    .word 31
    .long boot_gdt
boot_stack32:
    .fill 64, 8, 0
boot_stack32_top:

.section .bss.bootstack,"aw",@nobits
.balign 4096
.globl __boot_stack_guard, holdfast_boot_stack, holdfast_boot_stack_top
__boot_stack_guard:
    .skip 4096
holdfast_boot_stack:
    .skip 65536
holdfast_boot_stack_top:
.text
"#,
    main = sym crate::bringup::main,
);

unsafe extern "C" {
    static holdfast_boot_stack: u8;
    static holdfast_boot_stack_top: u8;
}

/// The stack bring-up runs on, later the boot processor's idle thread's.
pub fn boot_stack() -> (u64, u64) {
    (&raw const holdfast_boot_stack as u64, &raw const holdfast_boot_stack_top as u64)
}
