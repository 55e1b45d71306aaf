//! Lists of sizes as a user writes them: `8`, `1,8,64`, `64-1024*2` (64, 128, … 1024), `16-64+16`
//! (16, 32, 48, 64).

use std::str::FromStr;

use crate::error::{Error, Result};

/// Most values of one list: a sweep over more is a typing error.
const MOST: usize = 1000;

/// A list of sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(pub Vec<usize>);

impl FromStr for Sizes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut sizes = Vec::new();
        for part in text.split(',') {
            range(part.trim(), &mut sizes).ok_or_else(|| {
                Error::input(format!(
                    "`{part}` is no size and no range such as 64-1024*2 or 16-64+16"
                ))
            })?;
        }
        Ok(Sizes(sizes))
    }
}

fn range(part: &str, out: &mut Vec<usize>) -> Option<()> {
    let Some((first, rest)) = part.split_once('-') else {
        out.push(part.parse().ok()?);
        return Some(());
    };
    let at = rest.find(['*', '+'])?;
    let (last, step) = rest.split_at(at);
    let (multiply, step) = (step.starts_with('*'), step.get(1..)?.parse::<usize>().ok()?);
    let (mut size, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    let grows = if multiply { step > 1 && size > 0 } else { step > 0 };
    if !grows || size > last {
        return None;
    }
    while size <= last && out.len() < MOST {
        out.push(size);
        size = if multiply { size.checked_mul(step)? } else { size.checked_add(step)? };
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        for (text, sizes) in [
            ("8", vec![8]),
            ("1,8,64", vec![1, 8, 64]),
            ("64-1024*2", vec![64, 128, 256, 512, 1024]),
            ("16-1024*4", vec![16, 64, 256, 1024]),
            ("16-64+16,100", vec![16, 32, 48, 64, 100]),
            ("0", vec![0]),
        ] {
            assert_eq!(text.parse::<Sizes>().unwrap().0, sizes, "{text}");
        }
        for wrong in [
            "",
            "a",
            "1-",
            "1-8",
            "8-1*2",
            "1-8*1",
            "0-8*2",
            "1-8+0",
            "1,,2",
            "-4",
            "1-18446744073709551615*3x",
        ] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }
}
