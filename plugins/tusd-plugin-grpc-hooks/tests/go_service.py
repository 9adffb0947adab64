"""A service as it would be written for Go tusd, with Go's messages only; its port is the argument."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import hook_pb2
import hook_pb2_grpc


class Hooks(hook_pb2_grpc.HookHandlerServicer):  # type: ignore[misc]  # generated
    def InvokeHook(self, request: Any, context: grpc.ServicerContext) -> Any:
        upload, answer = request.event.upload, hook_pb2.HookResponse()
        line = f"{request.type} {upload.id} {upload.size} {upload.offset} {upload.storage.get('Type', '-')}\n"
        os.write(sys.stdout.fileno(), line.encode())  # as a whole: calls come in several threads
        wish = upload.metaData["filename"]
        if request.type == "pre-create":
            if wish == "":
                answer.rejectUpload = True
                answer.httpResponse.statusCode = 422
                answer.httpResponse.body = "a file name is needed"
                answer.httpResponse.header["X-Why"] = "name"
            elif wish == "status":
                answer.httpResponse.statusCode = 9999
            elif wish == "control":
                answer.httpResponse.header["X-Bad"] = "a\r\nX-Injected: 1"
            elif wish == "raise":
                raise RuntimeError("a secret of the service")
            else:
                answer.changeFileInfo.id = f"named-{wish}"
                answer.changeFileInfo.metaData["owner"] = request.event.httpRequest.header["X-User"]
        elif request.type == "post-receive" and wish == "":
            answer.stopUpload = upload.metaData["owner"] == "stop"
        elif request.type == "pre-finish":
            answer.httpResponse.header["X-Checked"] = "yes"
        return answer


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(16))
    hook_pb2_grpc.add_HookHandlerServicer_to_server(Hooks(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()
