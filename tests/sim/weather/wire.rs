//! Lines of the stream as Nomad writes them, for the product's parser to read.

use std::fmt::Write as _;

use crate::nomad_model::Batch;

pub(crate) const HEARTBEAT: &str = "{}";

/// What a stream says of `batch`: the events of the services that it `delivers`, if there are any.
pub(crate) fn line(batch: &Batch, delivers: impl Fn(&str) -> bool) -> Option<String> {
    let mut text = String::from("{\"Events\":[");
    let start = text.len();
    for event in &batch.events {
        let one = event.registration();
        if !delivers(&one.service.namespace) {
            continue;
        }
        if text.len() > start {
            text.push(',');
        }
        write!(
            text,
            r#"{{"Index":{},"Key":"{id}","Namespace":"{namespace}","Payload":{{"Service":{{"Address":"{}","AllocID":"{}","CreateIndex":{},"Datacenter":"dc1","ID":"{id}","JobID":"{}","ModifyIndex":{},"Namespace":"{namespace}","Port":{},"ServiceName":"{}","Tags":{:?}}}}},"Topic":"Service","Type":"{}"}}"#,
            batch.index,
            one.address,
            one.alloc_id,
            one.create_index,
            one.job_id,
            one.modify_index,
            one.port,
            one.service.name,
            one.tags,
            batch.cause,
            id = one.id,
            namespace = one.service.namespace,
        )
        .unwrap();
    }
    let some = text.len() > start;
    write!(text, "],\"Index\":{}}}", batch.index).unwrap();
    some.then_some(text)
}
