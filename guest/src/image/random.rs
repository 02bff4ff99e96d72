//! The generator: ChaCha20 (RFC 8439) keyed by the host half's entropy, with RDRAND stirred in where the CPU has it,
//! and a fresh key after each request, so that what was given out cannot be found again.

use ring0::features::Features;

static STATE: spin::Mutex<[u32; 12]> = spin::Mutex::new([0; 12]);

/// Takes the seed.
pub fn init(seed: &[u8; 64]) {
    let mut state = STATE.lock();
    let (first, second) = seed.split_at(32);
    for (n, word) in state.iter_mut().enumerate() {
        let at = |half: &[u8]| -> u32 {
            let n = n % 8 * 4;
            u32::from_le_bytes([half[n], half[n + 1], half[n + 2], half[n + 3]])
        };
        *word = if n < 8 { at(first) ^ at(second).rotate_left(7) } else { at(second) };
    }
}

/// Fills `out`.
pub fn fill(out: &mut [u8]) {
    let mut state = STATE.lock();
    if ring0::choice().features.contains(Features::RDRAND) {
        for pair in state[..8].chunks_exact_mut(2) {
            // SAFETY: the CPU has RDRAND.
            if let Some(word) = unsafe { ring0::arch::rdrand() } {
                pair[0] ^= word as u32;
                pair[1] ^= (word >> 32) as u32;
            }
        }
    }
    let mut next = block(&state);
    let key = next;
    for chunk in out.chunks_mut(64) {
        advance(&mut state);
        next = block(&state);
        for (bytes, word) in chunk.chunks_mut(4).zip(next) {
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
    }
    state[..8].copy_from_slice(&key[..8]);
    advance(&mut state);
}

fn advance(state: &mut [u32; 12]) {
    state[8] = state[8].wrapping_add(1);
    if state[8] == 0 {
        state[9] = state[9].wrapping_add(1);
    }
}

/// One block for key (eight words), counter and nonce (four).
fn block(state: &[u32; 12]) -> [u32; 16] {
    let mut start =
        [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    start[4..].copy_from_slice(state);
    let mut x = start;
    for _ in 0..10 {
        for [a, b, c, d] in [
            [0, 4, 8, 12],
            [1, 5, 9, 13],
            [2, 6, 10, 14],
            [3, 7, 11, 15],
            [0, 5, 10, 15],
            [1, 6, 11, 12],
            [2, 7, 8, 13],
            [3, 4, 9, 14],
        ] {
            for (p, q, r, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
                x[p] = u32::wrapping_add(x[p], x[q]);
                x[r] = u32::rotate_left(x[r] ^ x[p], by);
            }
        }
    }
    for (word, first) in x.iter_mut().zip(start) {
        *word = word.wrapping_add(first);
    }
    x
}
