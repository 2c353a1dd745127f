(function(){
function value(row,column){
var text=row.cells[column].textContent.trim(),number=Number(text);
return text==="-"?null:isNaN(number)?text:number}
function order(a,b){
if(a===null||b===null)return(a===null)-(b===null);
return typeof a==="number"&&typeof b==="number"?a-b:String(a).localeCompare(String(b),"en",{numeric:true})}
document.querySelectorAll("div.layers").forEach(function(part){
var body=part.querySelector("tbody"),rows=Array.from(body.rows),heads=Array.from(part.querySelectorAll("thead th"));
var search=part.querySelector("input"),kind=part.querySelector("select"),told=part.querySelector("output");
function filter(){
var text=search.value.trim().toLowerCase(),shown=0;
rows.forEach(function(row){
var fits=kind.value==="all"||row.dataset.kind.split(" ").includes(kind.value);
row.hidden=!(fits&&(!text||row.textContent.toLowerCase().includes(text)));
if(!row.hidden)shown++});
told.textContent=shown+" of "+rows.length+" layers"}
heads.forEach(function(head,column){
var button=document.createElement("button");
button.type="button";button.append(...head.childNodes);head.append(button);
button.addEventListener("click",function(){
// Numbers begin with the largest, names with the first, and the third time is the engine's order.
var first=typeof value(rows[0],column)==="number"||rows.some(function(row){return typeof value(row,column)==="number"})?"descending":"ascending";
var second=first==="ascending"?"descending":"ascending",now=head.getAttribute("aria-sort");
var next=now===first?second:now===second?null:first;
heads.forEach(function(other){other.removeAttribute("aria-sort")});
if(next)head.setAttribute("aria-sort",next);
var sorted=rows.slice();
if(next)sorted.sort(function(x,y){
var a=value(x,column),b=value(y,column),by=order(a,b);
return a===null||b===null||next==="ascending"?by:-by});
body.append(...sorted)})});
search.addEventListener("input",filter);kind.addEventListener("change",filter);
part.querySelector(".bar").hidden=false;filter()});
})();
