//! What compiled code calls by name and nothing else provides: `memcpy` and its kin.
//!
//! Short ranges by general registers, long ones by string instructions of eight bytes: those are as fast as
//! anything without wide registers on every CPU that KVM runs on, and cost a software CPU an eighth of `rep movsb`.
//! Vector registers are not touched.

core::arch::global_asm!(
    r#"
    // Forward; right too where the target begins before the source and overlaps it: the tail is loaded first.
    .p2align 4
    .globl memcpy
memcpy:
    mov rax, rdi
ring0_copy_forward:
    cmp rdx, 16
    jb 3f
    mov r10, [rsi + rdx - 16]
    mov r11, [rsi + rdx - 8]
    lea rcx, [rdi + rdx - 16]
    cmp rdx, 256
    ja 2f
1:  mov r8, [rsi]
    mov r9, [rsi + 8]
    mov [rdi], r8
    mov [rdi + 8], r9
    add rsi, 16
    add rdi, 16
    sub rdx, 16
    cmp rdx, 16
    jae 1b
    mov [rcx], r10
    mov [rcx + 8], r11
    ret
2:  mov r8, rcx
    mov rcx, rdx
    shr rcx, 3
    rep movsq
    mov [r8], r10
    mov [r8 + 8], r11
    ret
3:  cmp edx, 8
    jb 4f
    mov r8, [rsi]
    mov r9, [rsi + rdx - 8]
    mov [rdi], r8
    mov [rdi + rdx - 8], r9
    ret
4:  cmp edx, 4
    jb 5f
    mov r8d, [rsi]
    mov r9d, [rsi + rdx - 4]
    mov [rdi], r8d
    mov [rdi + rdx - 4], r9d
    ret
5:  test edx, edx
    jz 6f
    mov ecx, edx
    shr ecx, 1
    movzx r8d, byte ptr [rsi]
    movzx r9d, byte ptr [rsi + rcx]
    movzx r10d, byte ptr [rsi + rdx - 1]
    mov [rdi], r8b
    mov [rdi + rcx], r9b
    mov [rdi + rdx - 1], r10b
6:  ret

    .p2align 4
    .globl memmove
memmove:
    mov rax, rdi
    mov r8, rdi
    sub r8, rsi
    cmp r8, rdx
    jae ring0_copy_forward
    cmp rdx, 16
    jb ring0_copy_forward
    // Backward, the head last.
    mov r10, [rsi]
    mov r11, [rsi + 8]
1:  mov r8, [rsi + rdx - 8]
    mov r9, [rsi + rdx - 16]
    mov [rdi + rdx - 8], r8
    mov [rdi + rdx - 16], r9
    sub rdx, 16
    cmp rdx, 16
    jae 1b
    mov [rdi], r10
    mov [rdi + 8], r11
    ret

    .p2align 4
    .globl memset
memset:
    mov r8, rdi
    movzx eax, sil
    mov r9, 0x0101010101010101
    imul rax, r9
    cmp rdx, 8
    jb 3f
    lea r9, [rdi + rdx - 8]
    cmp rdx, 256
    ja 2f
1:  mov [rdi], rax
    add rdi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 1b
    mov [r9], rax
    mov rax, r8
    ret
2:  mov rcx, rdx
    shr rcx, 3
    rep stosq
    mov [r9], rax
    mov rax, r8
    ret
3:  test edx, edx
    jz 5f
4:  mov [rdi], al
    inc rdi
    dec edx
    jnz 4b
5:  mov rax, r8
    ret

    .p2align 4
    .globl memcmp
    .globl bcmp
memcmp:
bcmp:
    xor ecx, ecx
1:  lea r10, [rcx + 8]
    cmp r10, rdx
    ja 3f
    mov rax, [rdi + rcx]
    mov r8, [rsi + rcx]
    cmp rax, r8
    jne 2f
    mov rcx, r10
    jmp 1b
2:  bswap rax
    bswap r8
    cmp rax, r8
    sbb eax, eax
    or eax, 1
    ret
3:  cmp rcx, rdx
    je 4f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    je 3b
    ret
4:  xor eax, eax
    ret

    .p2align 4
    .globl strlen
strlen:
    xor eax, eax
1:  cmp byte ptr [rdi + rax], 0
    je 2f
    inc rax
    jmp 1b
2:  ret
    "#
);
