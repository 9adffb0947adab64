// Drive tus-js-client as told by the JSON in argv[2], and say in JSON lines what happens:
//   {file, endpoint, options, urls, abortAt, terminate, resume, tokens, retry}
// `tokens` are the bearer tokens of the requests, one after another; the last is that of all that follow.
// `retry` are statuses that are worth another try besides those which the client takes for such.
import fs from 'node:fs'
import { PassThrough } from 'node:stream'
import * as tus from 'tus-js-client'

const job = JSON.parse(process.argv[2])
const say = (event, more = {}) => console.log(JSON.stringify({ event, ...more }))

const options = {
  endpoint: job.endpoint,
  retryDelays: [0, 100, 300, 500, 1000, 1000, 1000],
  metadata: { filename: 'a file with spaces, ünïcode.bin', filetype: 'application/octet-stream', empty: '' },
  ...job.options,
  onError: (error) => { say('error', { message: String(error) }); process.exitCode = 1 },
  onProgress: (sent, total) => say('progress', { sent, total }),
  onUploadUrlAvailable: () => say('url', { url: upload.url }),
  onSuccess: () => {
    say('success', { url: upload.url })
    process.exit() // now and then an idle TLS connection would keep node running until the other side closes it
  },
  onChunkComplete: async (_size, accepted) => {
    if (job.abortAt && accepted >= job.abortAt) {
      await upload.abort(Boolean(job.terminate))
      say('aborted', { url: upload.url, accepted })
    }
  },
}
if (job.tokens) {
  options.onBeforeRequest = (request) => {
    request.setHeader('Authorization', `Bearer ${job.tokens.length > 1 ? job.tokens.shift() : job.tokens[0]}`)
  }
  options.onAfterResponse = (request, response) => say('answer', { method: request.getMethod(), status: response.getStatus() })
}
if (job.retry) {
  options.onShouldRetry = (error) => {
    const status = error.originalResponse?.getStatus() ?? 0
    return status < 400 || status >= 500 || [409, 423, ...job.retry].includes(status)
  }
}
if (job.urls) options.urlStorage = new tus.FileUrlStorage(job.urls)
// With a deferred length the input must not be a file: the client would take its pieces to be as long as chunkSize.
// In the IETF's draft it must not be one either: of a file in several pieces the client never says which is the last.
const input = options.protocol && !options.uploadLengthDeferred ? fs.readFileSync(job.file) : fs.createReadStream(job.file)
const upload = new tus.Upload(options.uploadLengthDeferred ? input.pipe(new PassThrough()) : input, options)
if (job.resume) {
  const previous = await upload.findPreviousUploads()
  say('previous', { count: previous.length })
  upload.resumeFromPreviousUpload(previous[0])
}
upload.start()
