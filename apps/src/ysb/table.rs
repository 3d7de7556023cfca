//! The table of the benchmark: which campaign an ad belongs to.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use drizzle::connectors::Fingerprint;
use hashbrown::HashMap;

use super::generator::{hash, uuid};

/// The table that is made when none is given.
const CAMPAIGNS: u64 = 100;
const ADS_PER_CAMPAIGN: u64 = 10;

/// Ads and their campaigns. Campaigns are numbered in the order of their ids.
#[derive(Clone, Debug)]
pub struct AdTable {
    ads: Vec<Ad>,
    campaigns: Vec<Box<str>>,
    campaign_of: HashMap<Box<str>, u32, BuildHasherDefault<IdHasher>>,
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
        self.campaign_of.get(ad_id).copied()
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
        let campaign_of = ads.iter().map(|ad| (ad.id.clone(), ad.campaign)).collect();
        AdTable { campaigns: campaigns.into_iter().map(Box::from).collect(), campaign_of, ads }
    }
}

/// Hashes ids eight bytes at a time. The table is fixed when the job starts and its owner chose the
/// ids, so nobody else can make them collide.
#[derive(Clone, Copy, Debug, Default)]
struct IdHasher(u64);

impl IdHasher {
    #[inline]
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for IdHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    /// Only what ends a string, which the length above already tells.
    #[inline]
    fn write_u8(&mut self, _: u8) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}
