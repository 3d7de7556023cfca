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
    /// Finds ads by the numbers that stand for their ids.
    by_number: Index,
    numbers: Vec<u64>,
}

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

    /// The number of the campaign of an ad, if the table has that ad.
    #[inline]
    pub fn campaign_of(&self, ad_id: &str) -> Option<u32> {
        let id = ad_id.as_bytes();
        let is_it = |ad: usize| is_same(self.ads[ad].id.as_bytes(), id);
        self.by_id.find(hash_of_id(id), is_it).map(|ad| self.ads[ad].campaign)
    }

    /// The number of the campaign of the ad whose id has this [number](super::replay::ad_number).
    #[inline]
    pub fn campaign_of_number(&self, ad: u64) -> Option<u32> {
        let is_it = |entry: usize| self.numbers[entry] == ad;
        self.by_number.find(hash_of_word(0, ad), is_it).map(|ad| self.ads[ad].campaign)
    }

    /// The id of a campaign.
    pub fn name(&self, campaign: u32) -> &str {
        &self.campaigns[campaign as usize]
    }

    /// How many campaigns there are.
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
            by_number: Index::new(numbers.iter().map(|&number| hash_of_word(0, number))),
            numbers,
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

/// An id, eight bytes at a time; the last word may overlap the one before it. Of an id of fewer bytes the
/// one word is filled up with zeros. Ids are compared with those of one length only.
#[inline]
fn words(id: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (chunks, _) = id.as_chunks::<8>();
    let last = match id.last_chunk::<8>() {
        Some(last) => *last,
        None => {
            let mut last = [0; 8];
            last[..id.len()].copy_from_slice(id);
            last
        }
    };
    chunks.iter().copied().chain([last]).map(u64::from_le_bytes)
}

/// Hash of an id. The table is fixed when the job starts and its owner chose the ids, so nobody else
/// can make them collide.
#[inline]
fn hash_of_id(id: &[u8]) -> u64 {
    words(id).fold(id.len() as u64, hash_of_word)
}

#[inline]
fn hash_of_word(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && words(one).eq(words(other))
}
