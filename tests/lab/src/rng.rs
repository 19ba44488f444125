//! Random choices that are a function of a seed alone.

/// A stream of numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// A stream of its own for a part that has a number, such as a thread.
    pub fn fork(&self, part: u64) -> Rng {
        let mut parent = Rng(self.0 ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Rng(parent.number())
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end` - 1; `end` is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A number from `start` to `end` - 1.
    pub fn within(&mut self, start: u64, end: u64) -> u64 {
        start + self.below(end - start)
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of them; there is at least one.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}

/// A seed that nobody chose.
pub fn fresh_seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed again.
    Rng::new(time.as_nanos() as u64 ^ u64::from(std::process::id())).below(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_stream() {
        let numbers = |mut rng: Rng| (0..100).map(|_| rng.below(1000)).collect::<Vec<_>>();
        assert_eq!(numbers(Rng::new(1)), numbers(Rng::new(1)));
        assert_ne!(numbers(Rng::new(1)), numbers(Rng::new(2)));
        assert_eq!(numbers(Rng::new(1).fork(3)), numbers(Rng::new(1).fork(3)));
        assert_ne!(numbers(Rng::new(1).fork(3)), numbers(Rng::new(1).fork(4)));
        let mut rng = Rng::new(7);
        assert!((0..1000).all(|_| (5..8).contains(&rng.within(5, 8))));
    }
}
