//! The rows of hosts that were put to sleep. What cannot be read stays in the file as it is.

use protocol::power::Sleep;
use rusqlite::{Connection, params};
use scheduler::StoreError;

use super::broken;

pub(super) fn save(connection: &Connection, sleep: &Sleep) -> Result<(), StoreError> {
    let json = serde_json::to_string(sleep).expect("a record is always valid JSON");
    let sql = "INSERT INTO sleeps (host, record) VALUES (?1, ?2)
               ON CONFLICT (host) DO UPDATE SET record = excluded.record";
    let saved = connection.execute(sql, params![sleep.host.as_str(), json]);
    saved.map(drop).map_err(|error| broken("save that a host sleeps", &error))
}

pub(super) fn all(connection: &Connection) -> Result<(Vec<Sleep>, Vec<String>), StoreError> {
    let failed = |error: rusqlite::Error| broken("list the sleeping hosts", &error);
    let sql = "SELECT host, CAST(record AS BLOB) FROM sleeps ORDER BY host";
    let mut query = connection.prepare(sql).map_err(failed)?;
    let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let (mut sleeps, mut damaged) = (Vec::new(), Vec::new());
    for row in rows.map_err(failed)? {
        let (host, record) = row.map_err(failed)?;
        match serde_json::from_slice(&record) {
            Ok(sleep) => sleeps.push(sleep),
            Err(error) => damaged.push(format!("the sleep of {host}: {error}")),
        }
    }
    Ok((sleeps, damaged))
}
