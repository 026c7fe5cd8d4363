//! The rows of expectations. What cannot be read stays in the file as it is: a newer program may know it.

use protocol::id::SetName;
use rusqlite::{Connection, params};
use scheduler::{SET_VERSION, SetRecord, Sets, StoreError};

use super::broken;

#[derive(serde::Deserialize)]
struct Version {
    version: u32,
}

pub(super) fn save(connection: &Connection, record: &SetRecord) -> Result<(), StoreError> {
    let json = serde_json::to_string(record).expect("a record is always valid JSON");
    let sql = "INSERT INTO expectations (name, record) VALUES (?1, ?2)
               ON CONFLICT (name) DO UPDATE SET record = excluded.record";
    let saved = connection.execute(sql, params![record.name.as_str(), json]);
    saved.map(drop).map_err(|error| broken("save expectations", &error))
}

pub(super) fn forget(connection: &Connection, name: &SetName) -> Result<(), StoreError> {
    let sql = "DELETE FROM expectations WHERE name = ?1";
    let gone = connection.execute(sql, [name.as_str()]);
    gone.map(drop).map_err(|error| broken("forget expectations", &error))
}

pub(super) fn all(connection: &Connection) -> Result<Sets, StoreError> {
    let failed = |error: rusqlite::Error| broken("list the expectations", &error);
    let sql = "SELECT name, CAST(record AS BLOB) FROM expectations ORDER BY name";
    let mut query = connection.prepare(sql).map_err(failed)?;
    let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let mut sets = Sets::default();
    for row in rows.map_err(failed)? {
        let (name, record) = row.map_err(failed)?;
        match parse(&record) {
            Ok(record) => sets.sets.push(record),
            Err(why) => sets.damaged.push((format!("expectations {name}"), why)),
        }
    }
    Ok(sets)
}

fn parse(record: &[u8]) -> Result<SetRecord, String> {
    let not_readable = |error: serde_json::Error| format!("not readable: {error}");
    let Version { version } = serde_json::from_slice(record).map_err(not_readable)?;
    if version > SET_VERSION {
        return Err(format!(
            "record of form {version}, this program knows up to {SET_VERSION}; use a newer one"
        ));
    }
    serde_json::from_slice(record).map_err(not_readable)
}
