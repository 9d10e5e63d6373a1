//! Numbers as bits: fixed widths, and a code that adapts to what it has seen.
//!
//! Bits fill each byte from its highest. Reading past the end is an error, never a panic.

/// The longest a number of the adaptive code may be: what is larger cannot be in a batch.
const VALUE_BITS_MAX: u32 = 48;

/// The bits end too soon, or say what no writer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadBits;

#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits that are free in the last byte.
    free: u32,
}

impl BitWriter {
    /// The lowest `width` bits of `value`, 0 to 64.
    pub(super) fn put(&mut self, value: u64, width: u32) {
        for bit in (0..width).rev() {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            self.free -= 1;
            if value >> bit & 1 == 1
                && let Some(last) = self.bytes.last_mut()
            {
                *last |= 1 << self.free;
            }
        }
    }

    /// The bytes; what is free in the last one is zero.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Bits that were read.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `width` bits, 0 to 64.
    pub(super) fn take(&mut self, width: u32) -> Result<u64, BadBits> {
        let mut value = 0;
        for _ in 0..width {
            let byte = self.bytes.get(self.at / 8).ok_or(BadBits)?;
            value = value << 1 | u64::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value)
    }

    /// Whether all that is left is what fills the last byte.
    pub(super) fn is_at_end(&self) -> bool {
        let left = self.bytes.len() * 8 - self.at;
        let last = self.bytes.last().copied().unwrap_or(0);
        left < 8 && last & ((1u16 << left) - 1) as u8 == 0
    }
}

/// An exponential Golomb code (order k: `value + 2^k` in binary, preceded by as many zeros as it has bits above k + 1)
/// whose order follows the mean of what was coded before, as in JPEG-LS (ISO/IEC 14495-1, A.5.1). Writer and reader
/// keep the same state by coding the same numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adaptive {
    sum: u64,
    count: u64,
}

impl Adaptive {
    /// As if `count` numbers of this mean had been coded.
    pub(super) fn new(mean: u64, count: u64) -> Self {
        Self {
            sum: mean * count,
            count,
        }
    }

    fn order(self) -> u32 {
        // The largest order whose first step, 2^k, is not above the mean; what is below one has order 0.
        (self.sum / self.count + 1).ilog2()
    }

    fn learn(&mut self, value: u64) {
        self.sum = self.sum.saturating_add(value);
        self.count += 1;
        if self.count >= 32 {
            self.sum /= 2;
            self.count /= 2;
        }
    }

    pub(super) fn put(&mut self, value: u64, out: &mut BitWriter) {
        let order = self.order();
        let raised = value.saturating_add(1 << order);
        let width = raised.ilog2() + 1;
        out.put(0, width - order - 1);
        out.put(raised, width);
        self.learn(value);
    }

    pub(super) fn take(&mut self, bits: &mut BitReader<'_>) -> Result<u64, BadBits> {
        let order = self.order();
        let mut width = order + 1;
        while bits.take(1)? == 0 {
            width += 1;
            if width > VALUE_BITS_MAX {
                return Err(BadBits);
            }
        }
        let raised = 1 << (width - 1) | bits.take(width - 1)?;
        let value = raised - (1 << order);
        self.learn(value);
        Ok(value)
    }

    /// A number with a sign, zig-zag: 0, -1, 1, -2, …
    pub(super) fn put_signed(&mut self, value: i64, out: &mut BitWriter) {
        self.put((value << 1 ^ value >> 63).cast_unsigned(), out);
    }

    pub(super) fn take_signed(&mut self, bits: &mut BitReader<'_>) -> Result<i64, BadBits> {
        let raw = self.take(bits)?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back_as_they_were(
            values in prop::collection::vec(-(1i64 << 40)..1i64 << 40, 0..60),
            widths in prop::collection::vec((any::<u64>(), 0u32..=64), 0..20),
            mean in 0u64..5_000,
        ) {
            let mut out = BitWriter::default();
            let mut coder = Adaptive::new(mean, 3);
            for &value in &values {
                coder.put_signed(value, &mut out);
            }
            for &(value, width) in &widths {
                out.put(value, width);
            }
            let bytes = out.finish();
            let mut bits = BitReader::new(&bytes);
            let mut coder = Adaptive::new(mean, 3);
            for &value in &values {
                prop_assert_eq!(coder.take_signed(&mut bits), Ok(value));
            }
            for &(value, width) in &widths {
                let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
                prop_assert_eq!(bits.take(width), Ok(value & mask));
            }
            prop_assert!(bits.is_at_end());
        }

        #[test]
        fn any_bytes_end_in_a_number_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bits = BitReader::new(&bytes);
            let mut coder = Adaptive::new(8, 2);
            while coder.take_signed(&mut bits).is_ok() {}
        }
    }

    #[test]
    fn a_constant_costs_one_bit_once_it_is_known() {
        let mut out = BitWriter::default();
        let mut coder = Adaptive::new(4, 1);
        for _ in 0..800 {
            coder.put(0, &mut out);
        }
        assert!(out.finish().len() <= 102);
    }
}
