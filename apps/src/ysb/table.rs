//! The table of the benchmark: which campaign an ad belongs to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use drizzle::connectors::Fingerprint;

use super::generator::{hash, uuid};
use super::replay::ad_number;

/// The table that is made when none is given.
const CAMPAIGNS: u64 = 100;
const ADS_PER_CAMPAIGN: u64 = 10;

/// Ads and their campaigns. Campaigns are numbered in the order of their ids.
#[derive(Clone, Debug)]
pub struct AdTable {
    ads: Vec<Ad>,
    campaigns: Vec<Box<str>>,
    /// Finds ads by their ids.
    by_id: Index,
    slots: Vec<Slot>,
    /// Finds ads by the numbers that stand for their ids.
    by_number: Index,
    numbers: Vec<u64>,
    /// So many further campaigns, of one ad each, that no table lists.
    standing: u32,
}

/// What the ids of ads of standing campaigns begin with; their numbers follow.
pub(super) const STANDING: &str = "standing-";

/// An ad of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ad {
    /// Its id.
    pub id: Box<str>,
    /// The number of its campaign.
    pub campaign: u32,
}

impl AdTable {
    /// Reads a JSON object of ad ids and campaign ids.
    pub fn load(path: &Path) -> Result<AdTable> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the table of ads {}", path.display()))?;
        AdTable::from_json(&text).with_context(|| {
            format!("{} is not a JSON object of ad ids and campaign ids", path.display())
        })
    }

    /// The default table: 100 campaigns of 10 ads, with ids drawn from `seed`.
    pub fn generate(seed: u64) -> AdTable {
        let ids = |kind: u64| move |n: u64| uuid(hash(hash(seed, kind), n));
        let (campaign, ad) = (ids(1), ids(2));
        let pairs = (0..CAMPAIGNS * ADS_PER_CAMPAIGN)
            .map(|n| (ad(n), campaign(n / ADS_PER_CAMPAIGN)))
            .collect();
        AdTable::new(&pairs)
    }

    /// With so many standing campaigns beside those that it lists.
    pub fn with_standing(self, standing: u32) -> Result<AdTable> {
        let all = self.campaign_count().checked_add(standing);
        ensure!(all.is_some(), "{standing} standing campaigns are more than can be numbered");
        Ok(AdTable { standing, ..self })
    }

    /// How many standing campaigns there are. Their numbers follow those of the others.
    pub fn standing(&self) -> u32 {
        self.standing
    }

    /// The number of the campaign of an ad, if the table has that ad.
    #[inline]
    pub fn campaign_of(&self, ad_id: &str) -> Option<u32> {
        let id = ad_id.as_bytes();
        let is_it = |ad: usize| self.slots[ad].is_of(id, &self.ads[ad].id);
        match self.by_id.find(hash_of_id(id), is_it) {
            Some(ad) => Some(self.slots[ad].campaign),
            None => self.standing_campaign(ad_id),
        }
    }

    #[cold]
    fn standing_campaign(&self, ad_id: &str) -> Option<u32> {
        let number: u32 = ad_id.strip_prefix(STANDING)?.parse().ok()?;
        (number < self.standing).then(|| self.campaign_count() + number)
    }

    /// The number of the campaign of the ad whose id has this [number](super::replay::ad_number).
    #[inline]
    pub fn campaign_of_number(&self, ad: u64) -> Option<u32> {
        let is_it = |entry: usize| self.numbers[entry] == ad;
        self.by_number.find(hash_of_number(ad), is_it).map(|ad| self.ads[ad].campaign)
    }

    /// The id of a campaign.
    pub fn name(&self, campaign: u32) -> &str {
        &self.campaigns[campaign as usize]
    }

    /// How many campaigns it lists.
    pub fn campaign_count(&self) -> u32 {
        self.campaigns.len() as u32
    }

    /// All ads in the order of their ids.
    pub fn ads(&self) -> &[Ad] {
        &self.ads
    }

    /// Hash over the whole table.
    pub fn fingerprint(&self) -> u64 {
        self.ads
            .iter()
            .fold(Fingerprint::new("ads"), |hash, ad| {
                hash.bytes(ad.id.as_bytes()).bytes(self.name(ad.campaign).as_bytes())
            })
            .number(u64::from(self.standing))
            .finish()
    }

    fn from_json(text: &str) -> Result<AdTable> {
        let campaign_by_ad: BTreeMap<String, String> = serde_json::from_str(text)?;
        ensure!(u32::try_from(campaign_by_ad.len()).is_ok(), "it has too many ads");
        Ok(AdTable::new(&campaign_by_ad))
    }

    fn new(campaign_by_ad: &BTreeMap<String, String>) -> AdTable {
        let mut campaigns: Vec<&str> = campaign_by_ad.values().map(String::as_str).collect();
        campaigns.sort_unstable();
        campaigns.dedup();
        let number = |campaign: &String| {
            campaigns.binary_search(&campaign.as_str()).expect("it was put there above") as u32
        };
        let ads: Vec<Ad> = campaign_by_ad
            .iter()
            .map(|(id, campaign)| Ad { id: id.as_str().into(), campaign: number(campaign) })
            .collect();
        let numbers: Vec<u64> = ads.iter().map(|ad| ad_number(&ad.id)).collect();
        AdTable {
            campaigns: campaigns.into_iter().map(Box::from).collect(),
            by_id: Index::new(ads.iter().map(|ad| hash_of_id(ad.id.as_bytes()))),
            by_number: Index::new(numbers.iter().map(|&number| hash_of_number(number))),
            slots: ads.iter().map(|ad| Slot::new(ad.id.as_bytes(), ad.campaign)).collect(),
            numbers,
            standing: 0,
            ads,
        }
    }
}

/// Finds entries by the hash of their key: one in eight places is taken, so that the first look
/// is nearly always the last.
#[derive(Clone, Debug)]
struct Index {
    /// Numbers of entries, plus one.
    places: Vec<u32>,
}

impl Index {
    fn new(hashes: impl ExactSizeIterator<Item = u64>) -> Index {
        let mut index = Index { places: vec![0; (hashes.len() * 8).next_power_of_two().max(8)] };
        for (number, hash) in (1..).zip(hashes) {
            let mut place = index.first_place(hash);
            while index.places[place] != 0 {
                place = index.next_place(place);
            }
            index.places[place] = number;
        }
        index
    }

    /// The number of the entry for which `is_it` holds, among those whose keys have this hash.
    #[inline]
    fn find(&self, hash: u64, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let mut place = self.first_place(hash);
        loop {
            let entry = (self.places[place] as usize).checked_sub(1)?;
            if is_it(entry) {
                return Some(entry);
            }
            place = self.next_place(place);
        }
    }

    #[inline]
    fn first_place(&self, hash: u64) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    #[inline]
    fn next_place(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }
}

/// Ids up to this length lie in the table itself.
const SHORT: usize = 56;

/// What is found by an id: one line of the processor's caches.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Slot {
    /// The id, if it is short, and zeros.
    id: [u8; SHORT],
    length: u32,
    campaign: u32,
}

impl Slot {
    fn new(id: &[u8], campaign: u32) -> Slot {
        let mut slot = Slot { id: [0; SHORT], length: id.len() as u32, campaign };
        if let Some(short) = slot.id.get_mut(..id.len()) {
            short.copy_from_slice(id);
        }
        slot
    }

    /// Whether it is the slot of this id, which is in `whole` too.
    #[inline]
    fn is_of(&self, id: &[u8], whole: &str) -> bool {
        match self.id.get(..id.len()) {
            Some(short) => self.length as usize == id.len() && is_same(short, id),
            None => whole.as_bytes() == id,
        }
    }
}

/// Whether two ids of one length are the same, eight bytes at a time: without a call.
#[inline]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let (Some(last), Some(other_last)) = (one.last_chunk::<8>(), other.last_chunk::<8>()) else {
        return one == other;
    };
    let differing = |a: &[u8; 8], b: &[u8; 8]| u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
    let chunks = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    chunks.fold(differing(last, other_last), |all, (a, b)| all | differing(a, b)) == 0
}

/// Hash of an id. The table is fixed when the job starts and its owner chose the ids, so nobody else
/// can make them collide.
#[inline]
fn hash_of_id(id: &[u8]) -> u64 {
    let (chunks, rest) = id.as_chunks::<16>();
    // What is left over, and some of what is before it.
    let last = match id.last_chunk::<16>() {
        Some(last) => *last,
        None => {
            let mut last = [0; 16];
            last[..rest.len()].copy_from_slice(rest);
            last
        }
    };
    // The products do not wait for each other.
    let mut hash = hash_of_pair(&last, !(id.len() as u64));
    for (place, chunk) in (1u64..).zip(chunks) {
        hash ^= hash_of_pair(chunk, place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    hash
}

#[inline]
fn hash_of_pair(pair: &[u8; 16], salt: u64) -> u64 {
    let both = u128::from_le_bytes(*pair);
    fold(both as u64 ^ salt ^ 0xa076_1d64_78bd_642f, (both >> 64) as u64 ^ 0xe703_7ed1_a0b4_28db)
}

#[inline]
fn hash_of_number(number: u64) -> u64 {
    fold(number, 0x9e37_79b9_7f4a_7c15)
}

/// Both halves of a product in one: wyhash's step.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
