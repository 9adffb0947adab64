// @tus/server with its file store, for the benchmark: node tus_server.mjs PORT DIRECTORY
import { mkdirSync } from 'node:fs'
import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const [port, directory] = process.argv.slice(2)
mkdirSync(directory, { recursive: true })
new Server({ path: '/files', datastore: new FileStore({ directory }) }).listen({ host: '127.0.0.1', port: Number(port) })
