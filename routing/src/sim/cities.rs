//! Where edges stand: cities with their latitude and longitude, the land networks that join them, and the cables between those.
//!
//! What is real: places, and which cables exist. What is a choice: how many edges stand in a city (`weight`, larger where the
//! large exchanges are) and which region an operator would count it to.

/// Cities that one land network joins: between any two of them there is a way over land or along a coast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Land {
    /// Europe with Istanbul.
    Europe,
    /// Canada, the United States, Mexico.
    NorthAmerica,
    /// South America.
    SouthAmerica,
    /// The Middle East with Cairo.
    MiddleEast,
    /// India.
    India,
    /// From Bangkok to Jakarta.
    SouthEastAsia,
    /// Japan.
    Japan,
    /// What cables alone reach.
    Island,
    /// Australia.
    Australia,
    /// Southern Africa.
    SouthernAfrica,
}

/// A city that edges stand in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct City {
    /// The metro's name.
    pub metro: &'static str,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// A continent, or the part of one that an operator would call a region.
    pub region: &'static str,
    /// The continent.
    pub continent: &'static str,
    /// The network it is joined to.
    pub land: Land,
    /// How many edges stand here, against the others.
    pub weight: u32,
}

const fn city(
    metro: &'static str,
    latitude: f64,
    longitude: f64,
    region: &'static str,
    continent: &'static str,
    land: Land,
    weight: u32,
) -> City {
    City {
        metro,
        latitude,
        longitude,
        region,
        continent,
        land,
        weight,
    }
}

use Land::{
    Australia, Europe, India, Island, Japan, MiddleEast, NorthAmerica, SouthAmerica, SouthEastAsia,
    SouthernAfrica,
};

/// All cities.
pub const CITIES: &[City] = &[
    city("fra", 50.11, 8.68, "eu", "eu", Europe, 8),
    city("ams", 52.37, 4.90, "eu", "eu", Europe, 7),
    city("lon", 51.51, -0.13, "eu", "eu", Europe, 8),
    city("par", 48.86, 2.35, "eu", "eu", Europe, 6),
    city("mad", 40.42, -3.70, "eu", "eu", Europe, 4),
    city("mil", 45.46, 9.19, "eu", "eu", Europe, 4),
    city("sto", 59.33, 18.06, "eu", "eu", Europe, 3),
    city("cph", 55.68, 12.57, "eu", "eu", Europe, 2),
    city("hel", 60.17, 24.94, "eu", "eu", Europe, 2),
    city("osl", 59.91, 10.75, "eu", "eu", Europe, 1),
    city("waw", 52.23, 21.01, "eu", "eu", Europe, 3),
    city("ber", 52.52, 13.40, "eu", "eu", Europe, 2),
    city("prg", 50.08, 14.44, "eu", "eu", Europe, 2),
    city("vie", 48.21, 16.37, "eu", "eu", Europe, 3),
    city("zrh", 47.38, 8.54, "eu", "eu", Europe, 2),
    city("bud", 47.50, 19.04, "eu", "eu", Europe, 1),
    city("buh", 44.43, 26.10, "eu", "eu", Europe, 2),
    city("sof", 42.70, 23.32, "eu", "eu", Europe, 1),
    city("ath", 37.98, 23.73, "eu", "eu", Europe, 1),
    city("ist", 41.01, 28.98, "eu", "eu", Europe, 2),
    city("lis", 38.72, -9.14, "eu", "eu", Europe, 1),
    city("dub", 53.35, -6.26, "eu", "eu", Europe, 2),
    city("man", 53.48, -2.24, "eu", "eu", Europe, 1),
    city("mrs", 43.30, 5.37, "eu", "eu", Europe, 2),
    city("iad", 39.04, -77.49, "use", "na", NorthAmerica, 9),
    city("nyc", 40.71, -74.01, "use", "na", NorthAmerica, 7),
    city("bos", 42.36, -71.06, "use", "na", NorthAmerica, 2),
    city("atl", 33.75, -84.39, "use", "na", NorthAmerica, 5),
    city("mia", 25.76, -80.19, "use", "na", NorthAmerica, 5),
    city("chi", 41.88, -87.63, "use", "na", NorthAmerica, 6),
    city("tor", 43.65, -79.38, "use", "na", NorthAmerica, 3),
    city("mtl", 45.50, -73.57, "use", "na", NorthAmerica, 2),
    city("dfw", 32.78, -96.80, "usc", "na", NorthAmerica, 6),
    city("den", 39.74, -104.99, "usc", "na", NorthAmerica, 2),
    city("msp", 44.98, -93.27, "usc", "na", NorthAmerica, 1),
    city("hou", 29.76, -95.37, "usc", "na", NorthAmerica, 1),
    city("mex", 19.43, -99.13, "usc", "na", NorthAmerica, 2),
    city("lax", 34.05, -118.24, "usw", "na", NorthAmerica, 6),
    city("sjc", 37.34, -121.89, "usw", "na", NorthAmerica, 6),
    city("sea", 47.61, -122.33, "usw", "na", NorthAmerica, 4),
    city("phx", 33.45, -112.07, "usw", "na", NorthAmerica, 2),
    city("yvr", 49.28, -123.12, "usw", "na", NorthAmerica, 1),
    city("gru", -23.55, -46.63, "sa", "sa", SouthAmerica, 5),
    city("gig", -22.91, -43.17, "sa", "sa", SouthAmerica, 2),
    city("for", -3.72, -38.54, "sa", "sa", SouthAmerica, 1),
    city("eze", -34.60, -58.38, "sa", "sa", SouthAmerica, 2),
    city("scl", -33.45, -70.67, "sa", "sa", SouthAmerica, 2),
    city("bog", 4.71, -74.07, "sa", "sa", SouthAmerica, 2),
    city("lim", -12.05, -77.04, "sa", "sa", SouthAmerica, 1),
    city("tyo", 35.68, 139.69, "ea", "as", Japan, 7),
    city("osa", 34.69, 135.50, "ea", "as", Japan, 3),
    city("sel", 37.57, 126.98, "ea", "as", Island, 4),
    city("tpe", 25.03, 121.57, "ea", "as", Island, 2),
    city("hkg", 22.32, 114.17, "ea", "as", Island, 5),
    city("sin", 1.35, 103.82, "sea", "as", SouthEastAsia, 7),
    city("kul", 3.139, 101.69, "sea", "as", SouthEastAsia, 2),
    city("jkt", -6.21, 106.85, "sea", "as", Island, 3),
    city("bkk", 13.76, 100.50, "sea", "as", SouthEastAsia, 2),
    city("sgn", 10.82, 106.63, "sea", "as", SouthEastAsia, 1),
    city("mnl", 14.60, 120.98, "sea", "as", Island, 2),
    city("bom", 19.08, 72.88, "in", "as", India, 4),
    city("del", 28.61, 77.21, "in", "as", India, 3),
    city("maa", 13.08, 80.27, "in", "as", India, 3),
    city("blr", 12.97, 77.59, "in", "as", India, 1),
    city("dxb", 25.20, 55.27, "me", "me", MiddleEast, 3),
    city("ruh", 24.71, 46.68, "me", "me", MiddleEast, 1),
    city("tlv", 32.09, 34.78, "me", "me", Island, 2),
    city("cai", 30.04, 31.24, "me", "me", MiddleEast, 1),
    city("syd", -33.87, 151.21, "oc", "oc", Australia, 4),
    city("mel", -37.81, 144.96, "oc", "oc", Australia, 2),
    city("per", -31.95, 115.86, "oc", "oc", Australia, 1),
    city("akl", -36.85, 174.76, "oc", "oc", Island, 2),
    city("jnb", -26.20, 28.05, "af", "af", SouthernAfrica, 3),
    city("cpt", -33.92, 18.42, "af", "af", SouthernAfrica, 1),
    city("nbo", -1.29, 36.82, "af", "af", Island, 1),
    city("los", 6.52, 3.38, "af", "af", Island, 1),
];

/// Cables between the land networks, by the cities near their landings.
pub const CABLES: &[(&str, &str)] = &[
    // The Atlantic.
    ("lon", "nyc"),
    ("dub", "nyc"),
    ("par", "iad"),
    ("mad", "iad"),
    ("lis", "los"),
    ("lis", "cpt"),
    ("los", "cpt"),
    // The Americas.
    ("mia", "gru"),
    ("nyc", "gru"),
    ("mia", "for"),
    ("mia", "bog"),
    // The Pacific.
    ("lax", "tyo"),
    ("sea", "tyo"),
    ("sjc", "tpe"),
    ("lax", "hkg"),
    ("lax", "mnl"),
    ("lax", "syd"),
    ("lax", "akl"),
    ("akl", "syd"),
    ("syd", "tyo"),
    ("per", "sin"),
    // East and south-east Asia.
    ("tyo", "sel"),
    ("osa", "sel"),
    ("tyo", "tpe"),
    ("tyo", "hkg"),
    ("tpe", "hkg"),
    ("sel", "hkg"),
    ("tyo", "sin"),
    ("hkg", "sin"),
    ("hkg", "mnl"),
    ("hkg", "sgn"),
    ("mnl", "sin"),
    ("jkt", "sin"),
    // Through India and the Red Sea.
    ("sin", "maa"),
    ("sin", "bom"),
    ("bom", "dxb"),
    ("bom", "cai"),
    ("cai", "mrs"),
    ("tlv", "mrs"),
    ("tlv", "ath"),
    ("nbo", "dxb"),
    ("nbo", "cai"),
    ("nbo", "jnb"),
    ("nbo", "bom"),
];
