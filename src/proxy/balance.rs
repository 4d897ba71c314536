//! Balance: which endpoint of an upstream is next. Round robin, one counter per upstream and worker.

use super::table::{Endpoint, EndpointId};

/// The next endpoint that is not among `tried`, moving `turn` on.
pub(super) fn pick(endpoints: &[Endpoint], turn: &mut usize, tried: &[EndpointId]) -> Option<Endpoint> {
    let start = *turn;
    let found = (0..endpoints.len())
        .map(|i| start.wrapping_add(i) % endpoints.len())
        .find(|i| !tried.contains(&endpoints[*i].id))?;
    *turn = found.wrapping_add(1);
    Some(endpoints[found])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_turns_and_passes_over_what_was_tried() {
        let endpoints: Vec<_> =
            (0..3).map(|i| Endpoint { id: EndpointId(i), addr: ([127, 0, 0, 1], 1).into() }).collect();
        let mut turn = 1;
        let mut next = |tried: &[u64]| {
            let tried: Vec<_> = tried.iter().copied().map(EndpointId).collect();
            pick(&endpoints, &mut turn, &tried).map(|e| e.id.0)
        };
        assert_eq!([next(&[]), next(&[]), next(&[]), next(&[])], [Some(1), Some(2), Some(0), Some(1)]);
        assert_eq!(next(&[2]), Some(0));
        assert_eq!(next(&[0, 1, 2]), None);
        assert_eq!(pick(&[], &mut 5, &[]), None);
    }
}
