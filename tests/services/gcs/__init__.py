"""A small Google Cloud Storage server for the tests: the part of the JSON API that google-cloud-storage and our plugin use.

- `store` keeps buckets, objects and sessions in a folder; preconditions are checked there, in one step with what they guard.
- `api` answers the calls without data: metadata, listings, composing, copying. `server` answers uploads, downloads, batches and
  the exchange of a service account's key for a token.
- `process` runs it all as a process of its own, which can be killed and started again: `GcsServer`. `fixtures` gives tests `gcs_server` and `gcs_bucket`, `client` Google's client.

test_objects.py and test_uploads.py run against this server, and by hand against Google's own testbench
(github.com/googleapis/storage-testbench, version 0.45.0; see `comparing`). Where the two differ, this is what Google says, and what is done here:

- A gap in a resumable upload is answered with 503 and a text, bytes that are there already are ignored, a wrong size at the
  end is answered with 308, and a finished session answers with its object whatever is asked. The answers of the real service
  are recorded in googleapis/java-storage, ITJsonResumableSessionPutTaskTest. The testbench takes the bytes after a gap.
- A session keeps whole multiples of 256 KiB until its end, so a client must go on from the Range of the answer:
  https://cloud.google.com/storage/docs/performing-resumable-uploads#chunked-upload. The testbench keeps every byte.
- Composite objects have a componentCount and no MD5; their sources are of one storage class, which is theirs too; checksums in a
  compose request are ignored; without sources it is refused; deleteSourceObjects is in the body:
  https://cloud.google.com/storage/docs/composite-objects. The testbench does none of it.
- Rewriting a composite object into another storage class makes it one component:
  https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite.
- A wrong checksum is answered with 400 (testbench: 412): https://cloud.google.com/storage/docs/data-validation.
- "Not" preconditions are answered with 304, for writes too (as the testbench does), and ifGenerationNotMatch fails where there is
  no object (testbench: holds): https://cloud.google.com/storage/docs/request-preconditions and the reference of Objects: insert.
- Buckets have no versioning here: another upload or a deletion removes the generation before. The testbench keeps it readable.
- Listings have pages, on which prefixes count: https://cloud.google.com/storage/docs/json_api/v1/objects/list. The testbench
  gives all at once.
- Names and custom metadata have limits (1024 bytes, no line ends, not "." or ".."; 8 KiB):
  https://cloud.google.com/storage/docs/objects#naming, https://cloud.google.com/storage/quotas#objects. The testbench has none.
- A bucket that is not empty is not deleted: 409 (testbench: 400). The size of an empty object is "0" (testbench: left out), and
  416 for a range of it has `Content-Range: bytes */0`, without which Google's client cannot download it.
- Errors are Google's JSON with `errors`, `reason` and `domain`. The testbench puts JSON into a message.
- Batches exist: https://cloud.google.com/storage/docs/batch. The testbench has none.

With `interval=1` the server has Google's limit of one change a second to a name, which is answered with 429:
https://cloud.google.com/storage/quotas#objects. Google lets short bursts pass, so this is stricter.

What Google does and this server does not: versions and soft deletion, retention, encryption with keys of the client, unpacking
gzip data on the way out, and the XML and gRPC APIs.
"""
